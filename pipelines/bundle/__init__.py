"""What is sent to a device engineer: one artefact of a run in a folder that needs no kdcompress to be used."""

from kdcompress.pipelines.bundle.make import bundle

__all__ = ["bundle"]
