"""Look up artifacts by the text that a user types: component and first digits of a fingerprint, or a folder."""

from __future__ import annotations

from collections.abc import Sequence

from components.artifacts.store import MANIFEST
from components.contract import registry
from components.contract.api import Artifact, ArtifactKey
from vim_core.errors import DataError
from vim_core.text import nearest

SHORT = 8
SHOWN = 5


def short(hexadecimal: str) -> str:
    """The first digits of a fingerprint or digest, as people read and type them."""
    return hexadecimal[:SHORT]


def short_name(key: ArtifactKey) -> str:
    """`component/` and the first digits of the fingerprint."""
    return f"{key[0]}/{short(key[1])}"


def choose(artifacts: Sequence[Artifact], text: str) -> Artifact:
    """The artifact named `component/prefix`, `prefix`, `component` where it has only one, or by its folder.

    Raises:
        ConfigError: the component is unknown.
        DataError: no artifact fits, or several do.
    """
    parts = [part for part in text.removesuffix(f"/{MANIFEST}").split("/") if part]
    if not parts:
        raise DataError("name an artifact, such as prior/3fa2")
    if len(parts) > 1:
        component, prefix = parts[-2:]
        registry.component(component)
    else:
        component, prefix = (parts[0], "") if parts[0] in registry.NAMES else ("", parts[0])
    candidates = [each for each in artifacts if component in ("", each.manifest.component)]
    fitting = [each for each in candidates if each.manifest.fingerprint.startswith(prefix)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        some = ", ".join(short_name(each.manifest.key) for each in fitting[:SHOWN])
        more = f" and {len(fitting) - SHOWN} more" if len(fitting) > SHOWN else ""
        raise DataError(f"{text}: {len(fitting)} artifacts match ({some}{more}); give more digits")
    near = nearest(prefix, [each.manifest.fingerprint[: len(prefix)] for each in candidates])
    advice = f"did you mean {'/'.join(filter(None, [component, near]))}?" if near else "see `vimctl artifacts list`"
    raise DataError(f"{text}: no such artifact; {advice}")
