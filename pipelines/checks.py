"""All that can be known to fail is found before anything is done, and told at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdcompress.artifact import content_hash
from kdcompress.console import say_once
from kdcompress.data.balance import check_balanced
from kdcompress.data.batch import rows_each
from kdcompress.data.mixing import check_mixable
from kdcompress.data.slots import slots_of
from kdcompress.data.splits import Source
from kdcompress.data.views import check_followed
from kdcompress.distributed import check_launch, launched
from kdcompress.errors import UsageError
from kdcompress.export import formats
from kdcompress.methods import methods
from kdcompress.models.opaque import GivenTeacher
from kdcompress.optional import require_installed
from kdcompress.ours import Ours
from kdcompress.own_code import located
from kdcompress.pipelines import pretraining, publish
from kdcompress.pipelines.inputs import sentence
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.opaque import check_answers, opaque
from kdcompress.pipelines.parts import (
    Part,
    Role,
    answers_of,
    described,
    given,
    is_opaque,
    is_private,
    parts_of,
    pruned_of,
    shipped,
)
from kdcompress.pipelines.preflight import (
    exports_key,
    passed,
    random_states_kept,
    remember,
    try_exports,
    try_network,
)
from kdcompress.pipelines.private import check_private
from kdcompress.pipelines.provenance import RECIPE, is_recipe
from kdcompress.pipelines.steps.lesson import check_groups
from kdcompress.pipelines.steps.names import StepName, exported, trained
from kdcompress.pipelines.steps.target import guide
from kdcompress.pipelines.trials import EXTRA, WHY
from kdcompress.pipelines.tuned import TUNED, settings
from kdcompress.pipelines.verdict import check_budgets
from kdcompress.recipe import Network, Pretrain, Recipe, Teacher, Train, code_of
from kdcompress.training.distillation import Distillation
from kdcompress.training.exemplars import check_pooled
from kdcompress.training.moving_average import unreached
from kdcompress.training.needs import check_features, check_mixing, check_opaque, check_unlabelled
from kdcompress.training.opening import check_cacheable
from kdcompress.training.optimizer import check_optimizer
from kdcompress.training.precision import choose_precision
from kdcompress.training.profile import FILES
from kdcompress.training.setup import number_of_steps
from kdcompress.training.trackers import check_tracker


@dataclass
class Tried:
    """What was tried already, which the candidates of a search share."""

    networks: dict[str, UsageError | None] = field(default_factory=dict)  # by key, what is wrong with it
    exports: list[str] = field(default_factory=list)  # keys of what can be exported and written


class Problems:
    """What is wrong, each once."""

    def __init__(self) -> None:
        self.found: list[UsageError] = []

    def attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except UsageError as error:
            self.add(error)

    def add(self, error: UsageError) -> None:
        if str(error) not in map(str, self.found):
            self.found.append(error)

    def tell(self) -> None:
        """Raises UsageError with all that was found."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            listed = "\n".join("- " + str(problem).replace("\n", "\n  ") for problem in self.found)
            raise UsageError(f"The recipe has {len(self.found)} problems:\n{listed}")


def check(networks: Networks, tried: Tried) -> None:
    """Raises UsageError with everything that is wrong with the recipe, its data and its networks, and before that
    RuntimeMissingError where a package that it asks for is not installed."""
    problems, recipe = Problems(), networks.recipe
    _check_packages(networks)
    task = networks.task  # an unknown one is told alone: all else depends on it
    check_groups(networks)
    problems.attempt(partial(_check_teachers, networks))
    problems.attempt(check_launch)
    problems.attempt(partial(check_private, recipe))
    problems.attempt(partial(check_budgets, recipe))
    for name in recipe.export.targets:
        problems.attempt(partial(formats.chosen, [name]))
    for name in code_of(recipe):
        problems.attempt(partial(located, "model or method", name))
    if not problems.found:
        problems.attempt(partial(_check_targets, networks))
    for role, part in networks.parts.items():
        if part.is_tuned:
            problems.attempt(partial(_check_tuned, part))
        if part.train:
            problems.attempt(partial(choose_precision, part.train.precision))
        for name, options in part.method.items():
            problems.attempt(partial(parse_options, name, options))
        problems.attempt(partial(_check_images, networks, role))
        if part.pretrain:
            problems.attempt(partial(_check_pretraining, networks, part.pretrain))
        problems.attempt(partial(_check_opaque, networks, role))
    problems.attempt(lambda: task.check(networks.source.test.truth, networks.source.name))
    problems.attempt(partial(_check_threshold, networks))
    if not problems.found:  # the networks are built for the source's images and classes
        with random_states_kept():
            _check_networks(networks, tried, problems)
    problems.tell()
    if told := sentence(networks):
        say_once(told, "dim")


def _at(where: str, action: Callable[[], Any]) -> None:
    """Errors name that part of the recipe."""
    try:
        action()
    except UsageError as error:
        raise error.at(where) from error


def _check_teachers(networks: Networks) -> None:
    recipe = networks.recipe
    if "teacher-2" in networks.parts and not any(kind.needs.several for kind in networks.parts["student"].kinds):
        asked, where = " and ".join(recipe.method), "co_teachers" if recipe.co_teachers else "ensemble"
        several = [name for name in methods if methods[name].needs.several]
        fit = [name for name in several if networks.task.takes(methods[name].needs)]
        hint = f"method: {' or '.join(fit)}, or leave {where} out" if fit else f"leave {where} out"
        raise UsageError(f"{asked} learns from one teacher only.", where=where, hint=hint)


def _check_opaque(networks: Networks, role: Role) -> None:
    """That a network can learn from those of its teachers that are black boxes."""
    part, augment = networks.parts[role], networks.recipe.data.augment
    kinds = {name: methods[name] for name in part.method}
    taught = [networks.parts[teacher].network for teacher in part.taught()]
    for teacher in filter(is_opaque, taught):
        check_opaque(kinds, networks.task, answers_of(teacher) is None, augment)
    source = networks.trained_on(role)
    for teacher in taught:
        if answers_of(teacher):
            _check_given(networks, teacher, part, source)


def _check_given(networks: Networks, teacher: Network, part: Part, source: Source) -> None:
    """That a file of answers has those that ``part`` would read."""
    assert isinstance(teacher, Teacher)
    found, seen = opaque(teacher, networks.recipe, source), part.seen(networks.recipe.data.augment)
    assert isinstance(found, GivenTeacher)
    check_answers(found, seen, source, slots_of(seen, source.train.images).count)


def _check_packages(networks: Networks) -> None:
    for name in networks.recipe.track:
        check_tracker(name)
    if any(part.is_tuned for part in networks.parts.values()):
        require_installed("optuna", EXTRA, WHY)


def _check_tuned(part: Part) -> None:
    if launched() > 1:
        raise UsageError(
            "Settings are searched in one process only.",
            where="tune",
            hint=f"run it in one, then train the recipe that it writes, {TUNED}, in several",
        )
    settings(part)


def _check_targets(networks: Networks) -> None:
    inside = [each for each in formats.chosen(networks.recipe.export.targets) if each.options.nms == "graph"]
    if inside and not networks.task.metric.inside:
        where, got = f"{inside[0].name}: options.nms", f"task: {networks.task.name}"
        hint = "leave `nms` out"
        raise UsageError("Only a detector's file can suppress by itself.", where=where, got=got, hint=hint)


def _check_threshold(networks: Networks) -> None:
    if networks.recipe.threshold == "argmax":
        return
    labels, truth = networks.source.labels, networks.source.validation.truth
    if not networks.task.decided_by_threshold(labels):
        raise UsageError(
            "A threshold decides between two classes.",
            where="threshold",
            got=f"{len(labels)} classes, for {networks.task.purpose}",
            hint="leave threshold out",
        )
    if len(set(truth.tolist())) < 2:
        raise UsageError(
            "A threshold is chosen on validation images of both classes.",
            where="threshold",
            got=f"{len(truth)} images of one class",
            hint="give data.validation a larger share",
        )


def _check_images(networks: Networks, role: Role) -> None:
    """That what a network is trained on can be changed and mixed, and can have images without labels beside it, as
    asked for."""
    data, part = networks.recipe.data, networks.parts[role]
    if part.train:
        check_balanced(networks.source.train.truth, part.train.balance)
        source = networks.trained_on(role)
        for each in filter(None, (source, source.shown)):
            slots_of(part.seen(data.augment), each.train.images, each.like)
    if not part.train or not (data.augment.mixes or data.augment.moves or data.unlabelled):
        return
    check_followed(data.augment, networks.source.train.truth)
    kinds = {name: methods[name] for name in part.method}
    check_mixable(data.augment, networks.source.train.truth)
    check_mixing(kinds, data.augment)
    if data.unlabelled and any(kind.needs.teacher for kind in kinds.values()):
        source = networks.trained_on(role)
        if source.unlabelled:
            check_unlabelled(kinds, source.unlabelled.images, source.train, part.train.accumulate * launched())


def _check_pretraining(networks: Networks, pretrain: Pretrain) -> None:
    """That its methods are some, teach features, and take its images."""
    for name, options in pretrain.method.items():
        parse_options(name, options)
    kinds = {name: methods[name] for name in pretrain.method}
    check_features(kinds)
    augment = pretrain.views(networks.recipe.data.augment).seen(two=False)
    check_mixing(kinds, augment, "pretrain.augment")
    _at("pretrain.augment", partial(slots_of, augment, networks.sources.without_labels.train.images))
    choose_precision(pretrain.train.precision)


def parse_options(name: str, options: dict[str, Any]) -> None:
    """Raises UsageError for an unknown method, or options that are not its own."""
    methods[name].parse_options(name, options)


def _check_networks(networks: Networks, tried: Tried, problems: Problems) -> None:
    """Each is tried alone, and then with those that it learns from."""
    broken: dict[str, list[Role]] = {}  # what is wrong, with whom
    for role, part in networks.parts.items():
        for seed, network in enumerate([part.network, *part.company()]):
            key = content_hash(
                [described(network), network.weights, given(network), part.train is None, pruned_of(network)]
            )
            if key not in tried.networks:
                tried.networks[key] = None
                try:
                    try_network(networks, role, network, seed)
                except UsageError as error:
                    tried.networks[key] = error
            if wrong := tried.networks[key]:
                broken.setdefault(str(wrong), []).append(role)
    for text, roles in broken.items():
        problems.add(UsageError(f"{', '.join(dict.fromkeys(roles))}: {text}"))
    out = {role for roles in broken.values() for role in roles}
    if networks.recipe.export.qat and not out:
        problems.attempt(partial(_at, "export.qat", partial(_check_qat, networks, networks.recipe.export.qat)))
    for role, part in networks.parts.items():
        if out.isdisjoint((role, *part.after())):
            problems.attempt(partial(_with_company, networks, role))
        needed = {role} if part.pretrain and part.pretrain.teacher else {role, pretraining.TEACHER}
        if part.pretrain and out.isdisjoint(needed):
            problems.attempt(partial(pretraining.distillation, networks, role))
        if part.train:
            problems.attempt(partial(check_optimizer, part.train, part.kinds, launched()))
            problems.attempt(partial(_tell_unreached, networks, role, part.train))


def _check_qat(networks: Networks, qat: Train) -> None:
    """That the student can be trained further, quantised, in this way, which is long after all else."""
    part, data, role = networks.parts["student"], networks.recipe.data, guide(networks)
    source = networks.trained_on("student", [role])
    if is_private(networks.parts):  # no teacher teaches further
        return
    choose_precision(qat.precision)
    check_balanced(source.train.truth, qat.balance)
    method: dict[str, dict[str, Any]] = {"quantized": {}}
    kinds = {name: methods[name] for name in method}
    if source.unlabelled:
        check_unlabelled(kinds, source.unlabelled.images, source.train, qat.accumulate * launched())
    if answers_of(network := networks.parts[role].network):
        check_opaque(kinds, networks.task, False, data.augment)
        _check_given(networks, network, replace(part, method=method), source)
    members = [networks.member(each, networks.untrained(each)) for each in ("student", role)]
    shown = networks.shown([role])
    distillation = Distillation(members[0], members[1:], method, networks.example(), task=networks.task, shown=shown)
    check_cacheable(distillation, data.augment, qat)


def _tell_unreached(networks: Networks, role: Role, options: Train) -> None:
    """Of an average of the weights that does not warm up in so short a training."""
    batches = len(networks.trained_on(role).train) // options.batch_size
    steps = number_of_steps(options, options.batch_size * rows_each(networks.parts[role].rows), batches)
    if options.ema and (told := unreached(options.ema, steps)):
        say_once(told, "dim")


def _with_company(networks: Networks, role: Role) -> None:
    if networks.parts[role].train is None:
        networks.network(role)
        return
    distillation, part = networks.distillation(role), networks.parts[role]
    if part.lesson and part.lesson.exemplars:
        check_pooled(networks.with_features(role, networks.untrained(role)))
    if part.train:
        check_cacheable(distillation, networks.recipe.data.augment, part.train)
    for method in distillation.auxiliary().values():
        if method.note:
            say_once(f"{role}: {method.note}", "yellow")


def check_exports(networks: Networks, folder: Path, states: Mapping[StepName, str], tried: Tried) -> None:
    """What ships is exported and written before a training, once for a run's ``folder``. ``states``: which steps are
    "to do". Raises UsageError."""
    if not any(part.train and states[trained(role)] == "to do" for role, part in networks.parts.items()):
        return
    known = passed(folder)
    made = [role for role in shipped(networks.parts) if not is_opaque(networks.parts[role].network)]
    roles = [role for role in made if states[exported(role)] == "to do"]
    keys = {role: key for role in roles if (key := exports_key(networks, role)) not in known}
    problems = Problems()
    with random_states_kept():
        for problem in try_exports(networks, list(keys)):
            problems.add(problem)
    problems.tell()
    tried.exports += keys.values()


def keep(tried: Tried, folder: Path) -> None:
    """What passed, in the run's folder: it is not tried again."""
    if tried.exports:
        remember(folder, tried.exports)


def check_folder(recipe: Recipe, folder: Path, profile: Path | None = None) -> None:
    """Raises UsageError where the run, or a profile of it in the folder ``profile``, would write over what is not its
    own."""
    names = [f"report.{kind}" for kind in ("json", "md", "html")]
    names += [] if is_recipe(folder / RECIPE, recipe) else [RECIPE]
    names += [TUNED] if any(part.is_tuned for part in parts_of(recipe).values()) else []
    Ours(folder).check(names)
    if profile:
        Ours(profile).check(FILES)
    targets = formats.chosen(recipe.export.targets)
    publish.check(folder, ["teacher", "student", *(str(exported("student", target.name)) for target in targets)])


def check_profile(networks: Networks, folder: Path, state: str, force: Collection[str] = ()) -> None:
    """Raises UsageError where the student's training, which is in this ``state``, is not there to be profiled."""
    name = trained("student")
    if networks.parts[name.role].train is None:
        raise UsageError("This recipe trains no student.", where="--profile")
    if state == "done" and str(name) not in force:
        raise UsageError(
            "The student is trained already, so there is no training to profile.",
            where=folder,
            hint="train it again with --force student, or in another folder with --output",
        )
