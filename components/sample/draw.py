"""Drawing one lane group: the same function in this process and in Ray actors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.engines.devices import torch_device
from vim_core.config import SampleConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vim_core.data.image_tables import ImageRow


@dataclass(frozen=True)
class Plan:
    """What every group is drawn with: weights and settings files as URIs, where, and how."""

    prior: tuple[str, str]
    tokenizer: tuple[str, str]
    config: SampleConfig
    device: str
    threads: int


@dataclass(frozen=True)
class Group:
    """One lane group: its labels (-1 for none), given codes [lanes, P] with the keys of their images, lanes in use."""

    index: int
    labels: tuple[int, ...]
    used: int
    given: NDArray[Any] | None = None
    keys: tuple[str, ...] = ()


class Drawer:
    """Prior and tokenizer, loaded once."""

    def __init__(self, plan: Plan) -> None:
        import torch

        from components.engines.devices import set_threads
        from vim_core.models.prior import load_prior
        from vim_core.models.vit_vqgan import load_tokenizer
        from vim_core.sampling.sampler import Sampler

        set_threads(plan.threads)
        device = torch_device(plan.device, plan.threads)
        dtype = torch.bfloat16 if plan.config.precision == "bf16" else torch.float32
        self.threads = plan.threads
        self.sampler = Sampler(load_prior(*plan.prior, device), settings_of(plan.config), plan.config.lanes, dtype)
        self.tokenizer = load_tokenizer(*plan.tokenizer, device)

    def draw(self, group: Group) -> list[ImageRow]:
        """The images of the lanes in use."""
        import torch

        from components.engines.devices import set_threads

        set_threads(self.threads)
        labels = torch.tensor(group.labels)
        given = None if group.given is None else torch.from_numpy(group.given.astype("int64"))
        labels = torch.where(labels < 0, self.sampler.prior.null_class, labels)
        codes = self.sampler.group(group.index, labels, given)
        # All lanes are decoded: a picture's last bits may depend on its place in the batch.
        return _rows(group, self.tokenizer.decode(codes)[: group.used], self.sampler.lanes)


def settings_of(config: SampleConfig) -> Any:
    """How the sampler draws."""
    from vim_core.sampling.logits import SamplingSettings

    return SamplingSettings(
        seed=config.seed,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        guidance=config.guidance,
        guidance_schedule=config.guidance_schedule,
        guidance_power=config.guidance_power,
    )


def _rows(group: Group, images: Tensor, lanes: int) -> list[ImageRow]:
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import encode_png, from_tensor

    return [
        ImageRow(
            key=f"sample-{group.index * lanes + lane:08d}",
            label=group.labels[lane],
            image=encode_png(picture),
            height=picture.shape[0],
            width=picture.shape[1],
            source=_source(group.keys, lane),
        )
        for lane, picture in enumerate(from_tensor(images))
    ]


def _source(keys: Sequence[str], lane: int) -> str:
    return f"prior, completing {keys[lane]}" if keys else "prior"
