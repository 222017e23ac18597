"""The intermediate outputs of any network, found by watching it run once; the network is not edited.

One dry forward under hooks records every module's call (``dry_run``, which leaves a ``table``). The stages are those
that the user names (``named``), that a timm network declares (``declared``), or that the ``rule`` finds on the table.
The last map is known by its value (``last_map``). ``Tapped`` takes them all with hooks on a plain forward. NHWC maps
and tokens are read as maps. How often the rule is right is measured: docs/stages.md.
"""

from kdcompress.models.taps.last_map import averages
from kdcompress.models.taps.pairs import pair_stages
from kdcompress.models.taps.tapped import Tapped
from kdcompress.models.taps.types import Stage, Taps, TapShapes

__all__ = ["Stage", "TapShapes", "Tapped", "Taps", "averages", "pair_stages"]
