"""pate: votes, noise, answers that are given once, and what they give away."""

import math

import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.pate import SENSITIVITY, answers_loss, votes
from kdcompress.methods.privacy import epsilon, gaussian_delta, secret_noise
from kdcompress.training.distillation import Distillation

IMAGES, CLASSES = 20, 3


class Says(torch.nn.Module):
    """A teacher that votes by the first pixel of an image: of class ``first``, plus what the pixel says."""

    def __init__(self, first=0):
        super().__init__()
        self.first = first

    def forward(self, x):
        said = (x[:, 0, 0, 0].long() + self.first) % CLASSES
        return torch.nn.functional.one_hot(said, CLASSES).float()


def student():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, CLASSES))


def images(n=IMAGES):
    x = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = torch.arange(n) % CLASSES
    return x


def make(teachers=(0, 0, 0, 1), **options):
    found = [Says(first) for first in teachers]
    return Distillation(student(), found, {"pate": options}, images(2), images=IMAGES)


def step(distillation, index, x=None):
    index = torch.as_tensor(index)
    x = images()[index] if x is None else x
    terms = distillation(x, torch.zeros(len(index), dtype=torch.int64), index=index)
    return terms, distillation.methods["pate"]


def test_votes_by_hand_and_one_teacher_moves_them_by_the_sensitivity():
    teachers = torch.tensor([[[3.0, 1, 0]], [[0, 0.2, 0.1]], [[-1, 5, 2]], [[0, 0, float("nan")]]])
    assert votes(teachers).tolist() == [[1, 2, 1]]
    moved = teachers.clone()
    moved[0] = torch.tensor([[0.0, 0, 9]])
    assert torch.dist(votes(teachers), votes(moved)).item() == pytest.approx(SENSITIVITY)


def test_with_little_noise_the_answer_is_the_majority_and_with_much_it_is_anything():
    _, pate = step(make(sigma=1e-3), range(IMAGES))
    assert pate.answers.tolist() == [i % CLASSES for i in range(IMAGES)]
    _, noisy = step(make(sigma=1e4), range(IMAGES))
    assert noisy.answers.tolist() != pate.answers.tolist() and noisy.answers.min() >= 0


def test_the_noise_is_added_to_the_votes():
    """With its seed the answers can be computed: argmax of counts + sigma * noise."""
    _, pate = step(make(sigma=2.0, noise_seed=5), range(IMAGES))
    noise = 2 * torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(5))
    for i, answer in enumerate(pate.answers.tolist()):
        counts = noise[i].clone()
        counts[i % CLASSES] += 3
        counts[(i + 1) % CLASSES] += 1
        assert answer == counts.argmax()


def test_secret_noise_is_normal_and_takes_no_notice_of_seeds():
    torch.manual_seed(0)
    first = secret_noise(200, 500)
    torch.manual_seed(0)
    second = secret_noise(200, 500)
    assert not torch.equal(first, second) and torch.isfinite(first).all()
    moments = [(first.double() ** k).mean().item() for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.1)
    assert abs((first.flatten()[:-1] * first.flatten()[1:]).mean()) < 0.02


def test_an_image_is_answered_once_ever():
    distillation = make(sigma=50.0)
    _, pate = step(distillation, range(IMAGES))
    before = pate.answers.clone()
    step(distillation, range(IMAGES), images().flip(0))  # other votes, in a later epoch
    assert torch.equal(pate.answers, before) and pate.asked == IMAGES


def test_a_resumed_training_does_not_ask_again_and_its_file_does_not_hold_the_noise():
    distillation = make(sigma=50.0)
    _, before = step(distillation, range(8))
    state = distillation.state_dict()
    assert not any("noise" in name for name in state)
    resumed = make(sigma=50.0)
    resumed.load_state_dict(state)
    _, after = step(resumed, range(IMAGES))
    assert torch.equal(after.answers[:8], before.answers[:8]) and after.asked == IMAGES
    assert not torch.equal(after.noise, before.noise)


def test_no_more_images_are_answered_than_may_be_and_the_others_have_no_loss():
    distillation = make(sigma=1e-3, queries=5)
    step(distillation, [4, 7, 9])
    terms, pate = step(distillation, [9, 1, 2, 3])  # 9 is known; 1 and 2 are the fourth and fifth
    assert (pate.answers >= 0).nonzero().flatten().tolist() == [1, 2, 4, 7, 9] and pate.asked == 5
    logits = distillation.student.net(images()[[9, 1, 2]])
    assert terms["pate"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).item()
    )
    terms, pate = step(distillation, [0, 3])
    assert terms["pate"] == 0 and pate.asked == 5
    assert answers_loss(torch.randn(2, 3), torch.tensor([-1, -1])) == 0


def test_labels_teach_nothing():
    distillation = make(sigma=1e-3)
    x, index = images(), torch.arange(IMAGES)
    losses = [sum(distillation(x, torch.full((IMAGES,), label), index=index).values()) for label in (0, 2)]
    assert losses[0] == losses[1]
    with pytest.raises(UsageError, match="method.pate.task_weight"):
        methods["pate"].parse_options("pate", {"task_weight": 0.1})


def rdp(answers, sigma, delta):
    """The Gaussian mechanism's Renyi divergence, alpha * sensitivity^2 / (2 sigma^2) an answer (Mironov 2017)."""
    orders = [1 + 1.05**i for i in range(-150, 150)]
    return min(answers * a * 2 / (2 * sigma**2) + math.log(1 / delta) / (a - 1) for a in orders)


@pytest.mark.parametrize(("answers", "sigma"), [(1, 5.0), (100, 40.0), (1000, 40.0), (5000, 40.0), (1000, 10.0)])
def test_epsilon_is_the_exact_one_and_below_that_by_renyi_divergence(answers, sigma):
    found, delta = epsilon(answers, SENSITIVITY, sigma, 1e-5), 1e-5
    assert 0.7 * rdp(answers, sigma, delta) < found < rdp(answers, sigma, delta)
    mu = math.sqrt(2 * answers) / sigma  # the worst pair of outputs: N(mu, 1) and N(0, 1)
    x = torch.linspace(-12, mu + 12, 2_000_001, dtype=torch.float64)
    densities = [torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (mu, 0.0)]
    excess = (densities[0] - math.exp(found) * densities[1]).clamp(min=0)
    assert torch.trapezoid(excess, x).item() == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize(
    ("answers", "sigma", "by_renyi", "by_loss_distribution"),
    [(1000, 40, 5.3777, 4.9936), (5000, 40, 14.1322, 13.2173), (1000, 100, 1.9143, 1.7702)],
)
def test_epsilon_agrees_with_opacus(answers, sigma, by_renyi, by_loss_distribution):
    """Opacus 1.6.0, RDPAccountant and PRVAccountant (an upper bound, error 0.01), noise multiplier sigma / sqrt(2)."""
    found = epsilon(answers, SENSITIVITY, sigma, 1e-5)
    assert by_loss_distribution - 0.011 < found <= by_loss_distribution < by_renyi


def test_epsilon_at_its_ends():
    assert epsilon(0, SENSITIVITY, 40.0, 1e-5) == 0
    assert epsilon(1, SENSITIVITY, 1e7, 1e-5) == 0  # hidden by delta alone
    assert math.isfinite(epsilon(60_000, SENSITIVITY, 0.5, 1e-9))
    assert gaussian_delta(0.0, 1.0) == pytest.approx(math.erf(0.5 / math.sqrt(2)))


def test_what_was_spent_is_what_was_asked():
    distillation = make(sigma=40.0, queries=10)
    _, pate = step(distillation, range(4))
    assert "at most 10 answers of 4 teachers, epsilon" in pate.note
    report = pate.report()
    assert (
        report["queries"] == 4 and report["epsilon"] == epsilon(4, SENSITIVITY, 40.0, 1e-5) and report["delta"] == 1e-5
    )
    seeded = make(noise_seed=0).methods["pate"]
    assert (
        seeded.report()["epsilon"] is None
        and "not private" in seeded.note
        and "not private" in seeded.report()["privacy"]
    )


def test_what_cannot_be_private_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="several teachers"):
        make(teachers=(0,))
    with pytest.raises(UsageError, match="how many images"):
        Distillation(student(), [Says(), Says()], "pate", images(2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        make()
