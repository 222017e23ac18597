from kdcompress.bench.record import Record, paired_ratio


def test_the_interval_of_a_ratio_holds_from_one_session_to_the_next():
    base = Record("b", "rapid", 1, samples_ms=[1.0] * 100)
    assert paired_ratio(Record("a", "rapid", 1, samples_ms=[1.008] * 100), base)["verdict"] == "no difference shown"
    ratio = paired_ratio(Record("a", "rapid", 1, samples_ms=[1.1] * 100), base)
    assert ratio["verdict"] == "slower" and ratio["low"] < 1.1 < ratio["high"]


def test_ratios_are_per_image():
    eight = Record("eight", "rapid", 8, samples_ms=[4.0] * 20)
    assert paired_ratio(eight, Record("one", "rapid", 1, samples_ms=[1.0] * 20))["median"] == 0.5


def test_too_few_pairs_show_no_difference():
    ratio = paired_ratio(Record("a", "rapid", 1, samples_ms=[1.0] * 10), Record("b", "rapid", 1, samples_ms=[9.0] * 99))
    assert ratio == {"median": None, "low": None, "high": None, "verdict": "no difference shown", "n": 10}
