"""What a run is asked for: YAML -> validated Recipe, every error at once, nothing heavy imported."""

from kdcompress.recipe.augment import Augment
from kdcompress.recipe.file import apply_override, load_recipe, read_recipe
from kdcompress.recipe.input import Input
from kdcompress.recipe.lifelong import Lifelong
from kdcompress.recipe.networks import Assistant, Network, Student, Teacher, parse_methods
from kdcompress.recipe.plain import listed, shown
from kdcompress.recipe.pretraining import FeatureTrain, Foundation, Pretrain
from kdcompress.recipe.section import Section
from kdcompress.recipe.shipping import Bench, Candidate, Search
from kdcompress.recipe.training import Data, Train, Tune
from kdcompress.recipe.validation import validate_recipe
from kdcompress.recipe.whole import TRACKERS, Recipe, code_of

__all__ = [
    "TRACKERS",
    "Assistant",
    "Augment",
    "Bench",
    "Candidate",
    "Data",
    "FeatureTrain",
    "Foundation",
    "Input",
    "Lifelong",
    "Network",
    "Pretrain",
    "Recipe",
    "Search",
    "Section",
    "Student",
    "Teacher",
    "Train",
    "Tune",
    "apply_override",
    "code_of",
    "listed",
    "load_recipe",
    "parse_methods",
    "read_recipe",
    "shown",
    "validate_recipe",
]
