"""Distillation methods: one file each, a pure loss and a thin class; a new file registers itself."""

from kdcompress.registry import Registry

methods: Registry = Registry("method", "kdcompress.methods", own="terms")
