"""`ingest.max_pixels` decides at ingest alone: what it let through is not refused later on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components import reconstruct
from components.exchange.tables import export_table, import_table
from components.ingest import component as ingest
from components.report.grids import reconstructions
from tests.support.ingested import kept, tiny_tokenizer
from tests.support.synthetic import context_of, pictures, rows
from vim_core.config import AugmentConfig, IngestConfig, ReconstructConfig
from vim_core.data import image_loader
from vim_core.data.build_tables import write_code_table
from vim_core.data.image_loader import ImageLoader
from vim_core.data.image_tables import write_images
from vim_core.pretrained import Tokenizer

SIDE = 10_100


@pytest.mark.slow
def test_images_above_the_default_go_through_the_whole_flow(tmp_path: Path) -> None:
    """Two pictures of 102 megapixels, of one bit each, so that the files are small."""
    (tmp_path / "in/a").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.full((SIDE, SIDE), bool(number))).save(tmp_path / f"in/a/{number}.png")
    config = IngestConfig(
        source=str(tmp_path / "in"), max_pixels=SIDE * SIDE, labelled=False, shards=1, keys="path", test_fraction=0.5
    )
    ctx = context_of(tmp_path, "ingest")
    images = kept(ingest.run(config, {}, ctx), ctx, config)
    train = images.uris("images/train-")
    assert ImageLoader(train, 16, AugmentConfig(), 0).plain([0]).unique().numel() == 1
    assert export_table(train, str(tmp_path / "pngs")) == 1
    assert len(import_table(str(tmp_path / "in"), str(tmp_path / "again"), (), SIDE * SIDE)) == 1
    model = tiny_tokenizer(tmp_path)
    write_code_table(Tokenizer.from_pretrained(model.folder), train, tmp_path / "codes.parquet")
    settings, again = ReconstructConfig(), context_of(tmp_path / "2", "reconstruct")
    done = kept(reconstruct.run(settings, {"images": images, "tokenizer": model}, again), again, settings)
    assert len(reconstructions(images, done, {}, 1)) == 1


def test_images_in_memory_are_bounded_by_their_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs are much larger than the crops that training sees."""
    images = pictures(9, 0)  # uint8 [9, H, W, 3]
    write_images(str(tmp_path / "images.parquet"), rows([str(i) for i in range(9)], [0] * 9, images))
    for limit, kept_images in ((9 * images[0].size, 9), (9 * images[0].size - 1, 0)):
        monkeypatch.setattr(image_loader, "PLAIN_CACHE_BYTES", limit)
        loader = ImageLoader([str(tmp_path / "images.parquet")], 4, AugmentConfig(), 0)
        first = loader.plain(range(9))
        assert len(loader._cache) == kept_images
        assert (loader.plain(range(9)) == first).all()
