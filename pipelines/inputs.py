"""What a teacher sees that the student does not, in words."""

from __future__ import annotations

from kdcompress.data.splits import Source
from kdcompress.errors import UsageError
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, input_of


def sentence(networks: Networks) -> str | None:
    """ "The teacher sees images of 64 x 64 in colour, the student of 32 x 32 in grey."; None where they see
    the same."""
    asked = input_of(networks.parts["teacher"].network) if "teacher" in networks.parts else None
    if asked is None:
        return None
    place = f" from {asked.folder}" if asked.folder else ""
    theirs, mine = _images(networks.source_of("teacher")), _images(networks.source)
    return f"The teacher sees images of {theirs}{place}, the student of {mine}."


def _images(source: Source) -> str:
    height, width, channels = source.train.images.shape[1:]
    return f"{height} x {width} in {'colour' if channels == 3 else 'grey'}"


def check_shared(networks: Networks, teacher: Role) -> None:
    """Raises UsageError where answers are to images that another would not see: a file of answers knows an image by the
    student's pixels."""
    if input_of(networks.parts[teacher].network):
        raise UsageError(
            "Answers of a teacher that sees other images than the student cannot be given away.",
            where="teacher.input",
            got=sentence(networks),
            hint="leave teacher.input out, or give the teacher's weights",
        )
