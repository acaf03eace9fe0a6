"""Networks that select: each kind against its own forward pass, classes by name, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from vim_core.data.images import center_crop, to_tensor
from vim_core.errors import ConfigError, DataError
from vim_core.features.selectors import SelectorSpec, load_selector, match_classes
from vim_core.models.classifier import Classifier, ClassifierShape, model_config
from vim_core.storage import io

TABLE = ("ant", "bee", "cat")


class Free(nn.Module):
    """A network of the documented interface without size or names: it pools what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images).mean(dim=(2, 3)) * 9)  # type: ignore[no-any-return]


class Sized(Free):
    """One that says its size, its classes and what it does."""

    size = 6
    class_names = ("cat", "dog", "ant", "bee")
    preprocessing = "times nine"

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)


def not_a_network() -> int:
    return 3


HERE = __name__


def saved(network: nn.Module, path: Path) -> tuple[str, str]:
    """Address and sha256 of its weights, without the counters that many files leave out."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, str(path))
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size=(*size, 3), dtype=np.uint8) for size in sizes]


def test_a_network_from_outside_sees_pictures_as_they_are_whatever_their_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Free().eval()
    weights, digest = saved(network, tmp_path / "free.safetensors")
    selector = load_selector(SelectorSpec(f"{HERE}:Free", weights, sha256=digest[:10], table_classes=TABLE))
    images, labels = pictures((8, 8), (8, 8), (5, 9), (8, 8)), torch.tensor([2, 0, 1, 1])
    scores, likeliest = selector.score(images, labels)
    with torch.inference_mode():
        logits = torch.cat([network(to_tensor(image)[None]) for image in images])
    expected = logits.double().softmax(1)[torch.arange(4), labels]
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)
    assert likeliest.tolist() == (logits.argmax(1) == labels).tolist()
    assert selector.digest == digest


def test_classes_are_found_by_name_and_pictures_cut_to_the_networks_size(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Sized().eval()
    weights, digest = saved(network, tmp_path / "sized.safetensors")
    selector = load_selector(SelectorSpec(f"{HERE}:Sized", weights, sha256=digest, table_classes=TABLE))
    images = pictures((10, 7), (6, 12))
    with torch.inference_mode():
        logits = network(to_tensor(np.stack([center_crop(image, 6) for image in images]))).double()
    scores, _ = selector.score(images, torch.tensor([0, 2]))
    # over all four classes of the network, the dog that the table lacks too
    assert scores.tolist() == pytest.approx([float(logits[0].softmax(0)[2]), float(logits[1].softmax(0)[0])], rel=1e-6)
    assert selector.preprocessing == "short side to 6 pixels (bicubic, antialiased), centre crop; times nine"


def test_torchvision_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1().eval()
    weights, digest = saved(network, tmp_path / "net.safetensors")
    wanted = tuple(f"n{number:08d}" for number in range(1000))
    spec = SelectorSpec("torchvision:squeezenet1_1", weights, sha256=digest[:8], table_classes=wanted)
    selector = load_selector(spec)
    (image,) = pictures((40, 50))
    transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        logits = network(transform(Image.fromarray(image))[None])[0].double()
    scores, likeliest = selector.score([image, image], torch.tensor([7, int(logits.argmax())]))
    assert float(scores[0]) == pytest.approx(float(logits.softmax(0)[7]), rel=1e-5)
    assert likeliest.tolist()[1]
    with pytest.raises(ConfigError, match=r"has 1000 classes, the images have 3; name a list"):
        load_selector(SelectorSpec(spec.name, weights, sha256=digest[:8], table_classes=TABLE))


def test_the_pipelines_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = ClassifierShape(image_size=8, classes=3, width=4, features=5)
    network = Classifier(shape).eval()
    save_file(network.state_dict(), str(tmp_path / "model.safetensors"))
    io.write_bytes(str(tmp_path / "config.json"), model_config(shape))
    files = str(tmp_path / "model.safetensors"), str(tmp_path / "config.json")
    selector = load_selector(SelectorSpec("selector", *files, "digest", TABLE, ("bee", "ant", "cat")))
    images = pictures((8, 8), (8, 8))
    with torch.inference_mode():
        logits = network(to_tensor(np.stack(images))).double()
    scores, _ = selector.score(images, torch.tensor([0, 2]))
    assert scores.tolist() == pytest.approx([float(logits[0].softmax(0)[1]), float(logits[1].softmax(0)[2])], rel=1e-6)
    assert selector.digest == "digest"


@pytest.mark.parametrize(
    ("names", "outputs", "wanted", "message"),
    [
        (("ant", "bee"), 2, TABLE, r"1 classes of the images, first 'cat', are not among its 2 classes"),
        (("ant", "bee", "cat", "cat"), 4, TABLE, r"its logits are not among its 4 classes"),
        (("ant", "bee", "cat"), 5, TABLE, r"its logits are not among its 3 classes"),
        ((), 4, TABLE, r"has 4 classes, the images have 3"),
        ((), 3, ("bee", "ant", "cat"), r"ordered by wnid, those of the images are not"),
    ],
)
def test_classes_that_are_not_known_to_match_are_refused(
    names: tuple[str, ...], outputs: int, wanted: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        match_classes(SelectorSpec("torchvision:vgg11", "w", table_classes=wanted), names, outputs)


def test_what_is_no_selector_is_refused(tmp_path: Path) -> None:
    weights, digest = saved(Free(), tmp_path / "free.safetensors")

    def given(name: str, sha256: str = digest) -> SelectorSpec:
        return SelectorSpec(name, weights, sha256=sha256, table_classes=TABLE)

    with pytest.raises(DataError, match=r"network\.weights='.*': sha256 is .*…, the file with sha256 00000000 has"):
        load_selector(given(f"{HERE}:Free", "00000000"))
    with pytest.raises(DataError, match=r"(?s)does not fit .*:Sized: .*size mismatch"):
        load_selector(given(f"{HERE}:Sized"))
    with pytest.raises(ConfigError, match=r"'nowhere_at_all:net': cannot be imported \(No module"):
        load_selector(given("nowhere_at_all:net"))
    with pytest.raises(ConfigError, match=r"cannot be imported \(module .* has no attribute 'Other'"):
        load_selector(given(f"{HERE}:Other"))
    with pytest.raises(ConfigError, match="returns a int, expected a torch"):
        load_selector(given(f"{HERE}:not_a_network"))
    with pytest.raises(ConfigError, match=r"'torchvision:resnet102': torchvision has no such classifier"):
        load_selector(given("torchvision:resnet102"))


def test_a_network_without_a_row_an_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, digest = saved(Free(), tmp_path / "free.safetensors")
    monkeypatch.setattr(Free, "forward", lambda self, images: images.mean(dim=(0, 2, 3))[None])
    selector = load_selector(SelectorSpec(f"{HERE}:Free", weights, sha256=digest, table_classes=TABLE))
    with pytest.raises(DataError, match=r"gives logits \[1, 3\] for images \[2, 3, 8, 8\]: expected one row an image"):
        selector.score(pictures((8, 8), (8, 8)), torch.tensor([0, 1]))
