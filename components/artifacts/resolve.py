"""Which artifact a person means by a component and the first digits of a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

from components.contract import registry
from components.contract.api import Artifact
from vim_core.errors import DataError
from vim_core.text import nearest

SHORT = 8
SHOWN = 5


def short(hexadecimal: str) -> str:
    """The digits that people read."""
    return hexadecimal[:SHORT]


def name_of(made: Artifact) -> str:
    """`component/fingerprint`."""
    return f"{made.manifest.component}/{made.manifest.fingerprint}"


def choose(made: Sequence[Artifact], word: str) -> Artifact:
    """The artifact named `component/prefix`, `prefix`, `component` where it has only one, or by its folder.

    Raises:
        ConfigError: the component is unknown.
        DataError: none fits, or several do.
    """
    parts = [part for part in word.removesuffix("/manifest.json").split("/") if part]
    if not parts:
        raise DataError("name an artifact, such as prior/3fa2")
    component, prefix = _split(parts)
    fits = [
        each for each in made
        if component in ("", each.manifest.component) and each.manifest.fingerprint.startswith(prefix)
    ]  # fmt: skip
    if len(fits) == 1:
        return fits[0]
    if fits:
        some = ", ".join(f"{each.manifest.component}/{short(each.manifest.fingerprint)}" for each in fits[:SHOWN])
        more = f" and {len(fits) - SHOWN} more" if len(fits) > SHOWN else ""
        raise DataError(f"{word}: {len(fits)} artifacts are called so ({some}{more}); give more digits")
    keys = [each.manifest.fingerprint for each in made if component in ("", each.manifest.component)]
    near = nearest(prefix, [key[: len(prefix)] for key in keys])
    advice = f"did you mean {'/'.join(filter(None, [component, near]))}?" if near else "see `vimctl artifacts list`"
    raise DataError(f"{word}: no such artifact; {advice}")


def _split(parts: list[str]) -> tuple[str, str]:
    if len(parts) > 1:
        component = parts[-2]
    elif parts[0] in registry.NAMES:
        return parts[0], ""
    else:
        return "", parts[0]
    registry.component(component)
    return component, parts[-1]
