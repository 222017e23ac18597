"""A network by name: the CIFAR zoo, timm, torchvision, libraries that are extras, or a callable of the user's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

from torch import nn

from kdcompress.errors import KDCompressError, UsageError, told
from kdcompress.models.names import EXTRAS, check_torchvision, extra, head, timm_names, unknown, unknown_in
from kdcompress.models.swapping import swap_classifier, swap_first_convolution
from kdcompress.models.timm_places import placed, whole_name
from kdcompress.models.wrapped import bare_inside
from kdcompress.models.zoo import zoo
from kdcompress.own_code import imported, is_own


@dataclass(frozen=True)
class Pretrained:
    """What is known of a library's weights before they are downloaded."""

    classes: int  # of the data that they were trained on
    mean: tuple[float, ...]  # of pixels in 0..1, as they were normalised in that training
    std: tuple[float, ...]
    origin: str  # where they are downloaded from
    labels: tuple[str, ...] = ()  # the classes' names, where they are said


def build(
    name: str, classes: int, channels: int, options: Mapping[str, Any] | None = None, pretrained: bool = False
) -> nn.Module:
    """A new network, in training mode, that maps float [N, channels, H, W] to logits [N, classes].

    ``name`` is one of

    - a name of the zoo (``resnet8x4``);
    - ``timm/NAME`` or ``torchvision/NAME``; torchvision's detectors of boxes and segmenters give a dense answer;
    - ``timm/hf-hub:OWNER/NAME[@REVISION]`` or ``timm/local-dir:FOLDER``, also without ``timm/``: a network of timm's
      that is described at the Hugging Face Hub, or in a folder;
    - ``smp/ARCHITECTURE/ENCODER``, a segmenter of segmentation-models-pytorch, which gives a dense answer;
    - ``transformers/NAME``, a detection transformer of transformers, which gives a dense answer;
    - ``HEAD/BACKBONE``, a detector or a segmenter on one of these networks (``models.detectors``,
      ``models.segmenters``), which gives a dense answer;
    - ``package.module:callable``, called as ``callable(classes=..., channels=..., **options)``; the current
      folder is importable.

    ``classes`` 0 asks timm and callables for a network without a classifier: it gives features.

    ``pretrained``: with the library's weights, downloaded where they are not in its cache; a classifier for another
    number of classes is a new one. torchvision's default ones, or those that ``options.weights`` names.

    Raises UsageError for a name that is not known, options that do not fit, a callable that cannot be imported, raises
    anything or gives no nn.Module, and pretrained weights that there are none of or that cannot be downloaded.
    """
    name, options = whole_name(name), dict(options or {})
    group, slash, rest = name.partition("/")
    known = pretrained_facts(name, options) if pretrained else None
    headed = head(group) if slash else None
    if is_own(name) and not headed:
        return _from_callable(name, classes, channels, options)
    if slash and group == "timm":
        return _from_timm(rest, classes, channels, options, known)
    if slash and group == "torchvision":
        return _from_torchvision(rest, classes, channels, options, known)
    if slash and group in EXTRAS:
        return _from_extra(name, classes, channels, options, known)
    if headed:
        return _on_backbone(headed, name, classes, channels, options, pretrained)
    if name in zoo:
        return _call(zoo[name], name, {"classes": classes, "channels": channels}, options)
    raise unknown(name)


def pretrained_facts(name: str, options: Mapping[str, Any] | None = None) -> Pretrained:
    """What the library says of the weights that ``build`` downloads. Raises UsageError where there are none."""
    name = whole_name(name)
    group, _, rest = name.partition("/")
    if head(group):
        return replace(pretrained_facts(rest, (options or {}).get("backbone")), labels=())  # of another head
    if group == "timm":
        import timm

        if there := placed(rest):
            return Pretrained(there.classes, there.mean, there.std, there.origin, there.labels)
        if not timm.is_model(rest):
            raise unknown_in("timm", rest, timm_names())
        try:
            cfg = timm.get_pretrained_cfg(rest)
        except RuntimeError as error:
            raise UsageError("There are no such weights.", where=name, got=error) from error
        if cfg is not None and cfg.has_weights:
            origin = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)
            return Pretrained(cfg.num_classes, tuple(cfg.mean), tuple(cfg.std), origin)
    elif group == "torchvision":
        import torchvision

        from kdcompress.models.detectors import torchvision_dense

        check_torchvision(rest)
        known, wanted = torchvision.models.get_model_weights(rest), (options or {}).get("weights") or "DEFAULT"
        try:
            weights = known.verify(wanted)
        except (KeyError, TypeError) as error:
            allowed = ", ".join(known.__members__)
            raise UsageError("There are no such weights.", where=name, got=wanted, allowed=allowed) from error
        if rest in torchvision_dense.detectors():
            labels = torchvision_dense.labels_of(weights.meta["categories"])
            return Pretrained(len(labels), *torchvision_dense.normalisation(rest), weights.url)
        view = weights.transforms()
        return Pretrained(len(weights.meta["categories"]), tuple(view.mean), tuple(view.std), weights.url)
    elif group in EXTRAS:
        library, given = extra(group), dict(options or {})
        library.check(rest)
        if group == "smp" and (encoder := rest.partition("/")[2]).startswith(library.TIMM):
            return pretrained_facts(f"timm/{encoder.removeprefix(library.TIMM)}")
        origin = library.origin(rest, given)
        try:
            classes, mean, std = library.facts(rest, given)
            return Pretrained(classes, mean, std, origin)
        except OSError as error:
            raise _not_downloaded(name, origin, error) from error
    elif not is_own(name) and name not in zoo:
        raise unknown(name)
    raise UsageError(
        f"There are no pretrained weights of {name} to download.",
        where="pretrained",
        allowed="torchvision/NAME, and the timm/NAME that have weights",
        hint="give a file of them (`weights`), or train it",
    )


_given: WeakSet[nn.Module] = WeakSet()  # networks of users' callables


def _from_callable(name: str, classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    model = _call(imported("model", name), name, {"classes": classes, "channels": channels}, options)
    if not isinstance(model, nn.Module):
        raise UsageError(
            "The callable gave no network.", where=name, got=type(model).__name__, allowed="a torch.nn.Module"
        )
    if model in _given:
        raise UsageError(
            "The callable gave a network that it gave before.",
            where=name,
            allowed="a new network at each call, so that teacher and student never share one",
            hint="take functools.cache or the like off it",
        )
    _given.add(model)
    return bare_inside(model)


def _call(factory: Callable[..., nn.Module], name: str, fixed: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    _refuse_fixed(name, options, fixed)
    try:
        inspect.signature(factory).bind(**fixed, **options)
    except TypeError as error:
        raise _bad_options(name, options, str(error), _parameters(factory)) from error
    except ValueError:  # compiled code may have no signature to check
        pass
    given = ", ".join(f"{key}={value!r:.80}" for key, value in {**fixed, **options}.items())
    with told(f"{name} cannot be made.", where=name, hint=f"it was called with {given}"):
        return factory(**fixed, **options)


def _from_timm(name: str, classes: int, channels: int, options: dict[str, Any], known: Pretrained | None) -> nn.Module:
    import timm

    there = placed(name)
    if not timm.is_model(there.architecture if there else name):
        raise unknown_in("timm", there.architecture if there else name, timm_names())
    fixed: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    _refuse_fixed(f"timm/{name}", options, fixed)
    try:
        return timm.create_model(name, **{"pretrained": known is not None, **fixed, **options})
    except Exception as error:
        if known and _is_download(error):
            raise _not_downloaded(f"timm/{name}", known.origin, error) from error
        raise _bad_options(f"timm/{name}", options, f"{type(error).__name__}: {error}", _signature(error)) from error


def _from_torchvision(
    name: str, classes: int, channels: int, options: dict[str, Any], known: Pretrained | None
) -> nn.Module:
    import torchvision

    from kdcompress.models.detectors import torchvision_dense
    from kdcompress.models.segmenters import torchvision_maps

    check_torchvision(name)
    fixed = {"num_classes": classes}
    _refuse_fixed(f"torchvision/{name}", options, fixed)
    detects, segments = name in torchvision_dense.detectors(), name in torchvision_maps.segmenters()
    if known:
        given = {**options, "weights": options.get("weights") or "DEFAULT"}
    else:
        given = {"weights": None, **options, **fixed}
    try:
        if detects:
            model: nn.Module = torchvision_dense.dense(name, classes, options, pretrained=known is not None)
        elif segments:
            model = torchvision_maps.dense(name, classes, options, pretrained=known is not None)
        else:
            model = torchvision.models.get_model(name, **given)
    except Exception as error:
        if known and _is_download(error):
            raise _not_downloaded(f"torchvision/{name}", known.origin, error) from error
        why = f"{type(error).__name__}: {error}"
        raise _bad_options(f"torchvision/{name}", options, why, _signature(error)) from error
    if known and known.classes != classes and not (detects or segments):
        swap_classifier(model, f"torchvision/{name}", known.classes, classes)
    if channels != 3:
        swap_first_convolution(model, f"torchvision/{name}", channels)
    return model


def _from_extra(name: str, classes: int, channels: int, options: dict[str, Any], known: Pretrained | None) -> nn.Module:
    group, _, rest = name.partition("/")
    library = extra(group)
    library.check(rest)
    try:
        model: nn.Module = library.dense(rest, classes, channels, options, known is not None)
    except KDCompressError:
        raise
    except Exception as error:
        if known and _is_download(error):
            raise _not_downloaded(name, known.origin, error) from error
        raise _bad_options(name, options, f"{type(error).__name__}: {error}", _signature(error)) from error
    return model


def _on_backbone(
    headed: Callable[..., nn.Module], name: str, classes: int, channels: int, options: dict[str, Any], pretrained: bool
) -> nn.Module:
    """``options.backbone`` are the backbone's; ``finest`` is the reduction of its first map that is looked at."""
    from kdcompress.models.detectors.backbone import of_classifier, of_timm

    backbone = whole_name(name.partition("/")[2])
    given, finest = options.pop("backbone", {}), options.pop("finest", getattr(headed, "finest", 8))
    if not isinstance(given, Mapping):
        raise UsageError("These are no options of a backbone.", where="options.backbone", got=given, allowed="{...}")
    if not isinstance(finest, int) or isinstance(finest, bool) or finest < 1:
        allowed = "a whole number from 1, such as 8"
        raise UsageError("This is no resolution.", where="options.finest", got=finest, allowed=allowed)
    if backbone.startswith("timm/"):
        known = pretrained_facts(backbone, given) if pretrained else None
        body = of_timm(_from_timm(backbone[5:], 0, channels, {"features_only": True, **given}, known), finest)
    else:
        body = of_classifier(build(backbone, 2, channels, dict(given), pretrained), channels, finest)
    return _call(headed, name, {"backbone": body, "classes": classes}, options)


def _is_download(error: Exception) -> bool:
    """Whether the weights are to blame, rather than the options: the libraries raise errors of many kinds."""
    return isinstance(error, OSError) or not isinstance(error, (TypeError, ValueError, LookupError, AttributeError))


def _not_downloaded(name: str, origin: str, error: Exception) -> UsageError:
    return UsageError(
        f"The pretrained weights of {name} cannot be downloaded or do not fit.",
        where=origin,
        got=f"{type(error).__name__}: {' '.join(str(error).split())}",
        hint="run it once where the network is reachable (the library keeps them in its cache), "
        "or give a file of them: `weights` in place of `pretrained`",
    )


def _refuse_fixed(name: str, options: dict[str, Any], fixed: dict[str, Any]) -> None:
    for key in fixed:
        if key in options:
            raise UsageError(
                f"{name}: the option {key!r} cannot be set.", got=options[key], hint="the data set decides it"
            )


def _bad_options(name: str, options: dict[str, Any], why: str, signature: object) -> UsageError:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "none"
    return UsageError(
        f"{name} cannot be built with these options: {why}", where="model options", got=given, allowed=signature
    )


def _signature(error: Exception) -> str | None:
    """The signature of the class or function that a TypeError about its arguments names, where it can be found."""
    match = re.match(r"(?:[\w.<>]*?)(\w+)(?:\.__init__)?\(\) got", str(error))
    trace = error.__traceback__
    while match and trace is not None:
        for scope in (trace.tb_frame.f_locals, trace.tb_frame.f_globals):
            found = scope.get(match[1])
            if callable(found):
                return _parameters(found)
        trace = trace.tb_next
    return None


def _parameters(factory: Callable[..., Any]) -> str:
    return ", ".join(str(p.replace(annotation=p.empty)) for p in inspect.signature(factory).parameters.values())
