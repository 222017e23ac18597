"""Whether this folder is whole and its model gives here what it gave where it was made: python3 self_check.py

Ends with 0 where all is well, 1 where something is wrong, 3 where the model's runtime is not installed.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def damaged():
    """What SHA256SUMS says of this folder that is not so."""
    sums = FOLDER / "SHA256SUMS"
    if not sums.is_file():
        return ["missing: SHA256SUMS"]
    found = []
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        path = FOLDER / name
        if not path.is_file():
            found.append(f"missing: {name}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            found.append(f"damaged: {name}")
    return found


def wrong():
    """What is wrong with the model's output for the sample, or None. Prints how close it is."""
    import numpy as np
    from classifier import Classifier

    classifier = Classifier(FOLDER)
    spec = classifier.model["input"]
    expected = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
    shape = (1, spec["height"], spec["width"], spec["channels"])
    image = np.frombuffer((FOLDER / "sample.bin").read_bytes(), np.uint8).reshape(shape)
    got, wanted = classifier.logits(image)[0], np.array(expected["logits"], np.float32)
    if len(got) != len(classifier.labels):
        return f"the model gives {len(got)} logits, and model.json has {len(classifier.labels)} labels"
    if got.shape != wanted.shape:
        return f"the model gives {len(got)} logits, and expected.json has {len(wanted)}"
    if not np.isfinite(got).all():
        return "the model gives NaN or infinite logits"
    difference = float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-12))
    label = classifier.labels[int(got.argmax())]
    print(f"sample.png is {label!r}; logits differ by {difference:.2g} of the largest, {expected['tolerance']} allowed")
    if label != expected["label"]:
        return f"sample.png is {label!r} here, and was {expected['label']!r} where the bundle was made"
    if difference > expected["tolerance"]:
        return f"logits differ by {difference:.2g} of the largest; {expected['tolerance']} is allowed"
    return None


def main():
    problems = damaged()
    if problems:
        print("\n".join(problems))
        print("FAILED: the folder is not what was shipped; copy it again")
        return 1
    model = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
    try:
        problem = wrong()
    except ImportError as error:
        print(f"{error}\nNOT RUN: the files are whole; the model needs: {model['runtime']['install']}")
        return 3
    except Exception as error:  # runtimes raise what they like
        problem = f"the model cannot be loaded or run: {type(error).__name__}: {error}"
    if problem:
        made = f"{model['runtime']['name']} {model['runtime']['version']} on {model['made_on']}"
        print(f"FAILED on {platform.machine()}: {problem}\n  made with {made}")
        return 1
    print(f"OK: {model['file']} is whole and runs as it should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
