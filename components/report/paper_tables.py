"""The paper's tables of results (arXiv 2110.04627, version 3), and the conditions on a figure of ours to enter them.

Rows are facts read in the paper's full text; its tables had lost their columns there, which were put back by
hand and checked against each other. `doubts` says where the paper contradicts itself or leaves something open.
"""

from __future__ import annotations

from dataclasses import dataclass

TORCH_FIDELITY = "torch-fidelity"
IMAGENET, CELEBA, FFHQ = "ImageNet", "CelebA-HQ", "FFHQ"
SPLITS = {IMAGENET: (1_281_167, 50_000), CELEBA: (25_000, 5_000), FFHQ: (60_000, 10_000)}
"""Training and held-out images of the paper's data sets; faces as taming-transformers splits them."""

SIZE = 256
"""Side of the paper's images in pixels."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, and where our cell comes from.

    `ours` names a description of the run (see `paper_comparison`), `figure` a figure of `results.json`. A figure
    enters only if it was measured on the table's data set, by `protocol` where the column names one, and on
    `count` images where that is given; `scale` brings it into the paper's unit.
    """

    title: str
    ours: str = ""
    figure: str = ""
    protocol: str = ""
    count: int = 0
    scale: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A table of the paper: number, what it shows, columns, rows as printed, and doubts.

    `datasets` are those a run must have used to fill a figure; `groups` are the groups of `results.json` whose
    figures stand below the table when they may not enter it, `see` another table that has them below.
    """

    number: int
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    components: tuple[str, ...]
    doubts: tuple[str, ...]
    groups: tuple[str, ...] = ()
    datasets: tuple[str, ...] = (IMAGENET,)
    see: int = 0

    @property
    def compute(self) -> str:
        """The paper's compute: of the tokenizer's training alone, or of the prior's after it."""
        return STAGE_2 if "prior" in self.components else STAGE_1


STAGE_1 = "128 CloudTPUv4, 500,000 steps of 256 images"
STAGE_2 = "450,000 steps of 1,024 images after the tokenizer's training; the number of TPUs is not stated"
CLOSE = "the paper names no FID implementation; its row of validation images (1.62) agrees with torch-fidelity"
MODEL = Column("Model", ours="model")
SIZES = Column("Encoder-decoder", ours="sizes")
DATA = Column("Data set", ours="data")
TOKENS = Column("Tokens", ours="grid")
RATE = Column("images/s")
L2 = Column("l2 (×10⁻³)", figure="quantizer.l2", count=50_000, scale=1e3)
LAPLACE = Column("Logit-Laplace", figure="quantizer.logit_laplace", count=50_000)
RFID = Column("FID", figure="quantizer.rfid", protocol=TORCH_FIDELITY, count=50_000)
RECONSTRUCTION_IS = Column("IS", figure="quantizer.reconstruction_is", protocol=TORCH_FIDELITY, count=50_000, digits=1)
FID = Column("FID", figure="samples.fid", protocol=TORCH_FIDELITY, count=50_000)
IS = Column("IS", figure="samples.inception_score", protocol=TORCH_FIDELITY, count=50_000, digits=1)

TABLE_1 = Table(
    1,
    "Speed and quality of tokenizers, ImageNet validation",
    (Column("Architecture", ours="model"), SIZES, RATE, L2, LAPLACE, RFID, RECONSTRUCTION_IS),
    (
        ("ViT-VQGAN", "Small-Small", "1520", "3.34", "-2.44", "1.99", "184.4"),
        ("CNN-VQGAN", "channels × 1", "946", "3.81", "-2.36", "2.26", "178.7"),
        ("ViT-VQGAN", "Base-Base", "960", "3.09", "-2.54", "1.55", "190.2"),
        ("CNN-VQGAN", "channels × 2", "400", "3.44", "-2.46", "1.91", "183.4"),
        ("ViT-VQGAN", "Small-Large", "384", "2.88", "-2.58", "1.28", "192.3"),
    ),
    ("quantize",),
    (
        "the header prints l2 × 10⁻², Table 4 prints × 10⁻³ for the same numbers, which alone is consistent",
        "images/s are of training on 128 CloudTPUv4: another machine's rate never enters this column",
    ),
    groups=("quantizer",),
)

TABLE_3 = Table(
    3,
    "FID of reconstructed validation images",
    (
        MODEL,
        DATA,
        Column("Latent", ours="grid"),
        Column("Codes", ours="codes"),
        Column("FID", figure="quantizer.rfid", protocol=TORCH_FIDELITY),
    ),
    (
        ("DALL-E dVAE", "web", "32×32", "8192", "32.00"),
        ("VQGAN", IMAGENET, "16×16", "1024", "7.94"),
        ("VQGAN", IMAGENET, "16×16", "16384", "4.98"),
        ("VQGAN (Gumbel)", IMAGENET, "32×32", "8192", "1.49"),
        ("VQGAN (hierarchical)", IMAGENET, "64×64 & 32×32", "512", "1.45"),
        ("ViT-VQGAN (Small-Large)", IMAGENET, "32×32", "8192", "1.28"),
        ("ViT-VQGAN", CELEBA, "32×32", "8192", "4.66"),
        ("ViT-VQGAN", FFHQ, "32×32", "8192", "3.13"),
    ),
    ("quantize",),
    (
        "the tokenizer's size for CelebA-HQ and FFHQ is not stated",
        "the Gumbel row is given as trained on ImageNet; its own repository lists that model under OpenImages",
        "1.28 is the Small-Large tokenizer; the samples of Table 6 came from Small-Small, which has 1.99",
    ),
    datasets=(IMAGENET, CELEBA, FFHQ),
    see=1,
)

TABLE_4 = Table(
    4,
    "What each choice in the tokenizer does, ImageNet validation",
    (
        SIZES,
        Column("Architecture", ours="architecture"),
        Column("Discriminator", ours="discriminator"),
        Column("Code dim", ours="code_dim"),
        Column("l2-norm", ours="normalised"),
        Column("l1 (×10⁻²)", figure="quantizer.l1", count=50_000, scale=1e2),
        L2,
        LAPLACE,
        RECONSTRUCTION_IS,
        RFID,
        Column("Usage (%)", figure="quantizer.codebook_usage", count=50_000 // 256 * 256, scale=100, digits=0),
        RATE,
    ),
    (
        ("Base-Base", "ViT", "StyleGAN", "32", "yes", "3.06", "3.09", "-2.54", "190.2", "1.55", "96", "960"),
        ("Small-Small", "ViT", "StyleGAN", "32", "yes", "3.22", "3.34", "-2.44", "184.4", "1.99", "95", "1520"),
        ("Small-Large", "ViT", "StyleGAN", "32", "yes", "2.93", "2.88", "-2.58", "192.3", "1.28", "95", "384"),
        ("Base-Base", "CNN", "StyleGAN", "32", "yes", "3.45", "3.81", "-2.36", "178.7", "2.26", "63", "946"),
        ("Base-Base", "ViT", "PatchGAN", "32", "yes", "2.82", "2.58", "-2.62", "165.6", "3.88", "89", "1227"),
        ("Base-Base", "ViT", "StyleGAN", "256", "yes", "3.60", "4.28", "-2.38", "160.1", "3.68", "4", "954"),
        ("Base-Base", "ViT", "StyleGAN", "128", "yes", "3.41", "3.93", "-2.44", "173.9", "2.77", "14", "960"),
        ("Base-Base", "ViT", "StyleGAN", "64", "yes", "3.18", "3.37", "-2.49", "179.5", "2.50", "37", "960"),
        ("Base-Base", "ViT", "StyleGAN", "16", "yes", "3.00", "2.96", "-2.54", "191.2", "1.50", "95", "960"),
        ("Base-Base", "ViT", "StyleGAN", "8", "yes", "2.98", "2.92", "-2.55", "189.5", "1.52", "96", "960"),
        ("Base-Base", "ViT", "StyleGAN", "4", "yes", "3.55", "4.18", "-2.37", "143.8", "3.68", "96", "960"),
        ("Base-Base", "ViT", "StyleGAN", "32", "no", "4.13", "5.41", "-2.20", "123.6", "5.44", "2", "960"),
    ),
    ("quantize",),
    (
        "images/s contain the discriminator's work, so they are of training; another machine's rate never enters",
        "the arrows over usage and images/s point the wrong way in the paper",
    ),
    see=1,
)

TABLE_5 = Table(
    5,
    "Unconditional faces at 256 × 256",
    (DATA, MODEL, Column("FID", figure="samples.fid", protocol=TORCH_FIDELITY, digits=1)),
    tuple(
        (data, model, fid)
        for data, rows in (
            (
                CELEBA,
                "GLOW 69.0, NVAE 40.3, PIONEER 25.3, NCPVAE 24.8, VAEBM 20.4, Style ALAE 19.2, DC-VAE 15.8, PGGAN 8.0, "
                "VQGAN 10.2, ViT-VQGAN 7.0",
            ),
            (
                FFHQ,
                "VDVAE t=0.7 38.8, VDVAE t=1.0 33.5, VDVAE t=0.8 29.8, VDVAE t=0.9 28.5, VQGAN+P.SNAIL 21.9, "
                "BigGAN 12.4, U-Net GAN 10.9, StyleGAN2 3.8, VQGAN 9.6, ViT-VQGAN 5.3",
            ),
        )
        for model, fid in (row.rsplit(" ", 1) for row in rows.split(", "))
    ),
    ("quantize", "prior", "sample"),
    ("ViT-VQGAN drew without top-k and top-p, VQGAN with top-k", CLOSE),
    datasets=(CELEBA, FFHQ),
    see=6,
)

TABLE_6 = Table(
    6,
    "Class-conditional ImageNet at 256 × 256",
    (MODEL, Column("Acceptance", ours="acceptance"), FID, IS),
    (
        ("Validation data", "1.0", "1.62", "235.0"),
        ("DCTransformer", "1.0", "36.5", "n/a"),
        ("BigGAN", "1.0", "7.53", "168.6"),
        ("BigGAN-deep", "1.0", "6.84", "203.6"),
        ("IDDPM", "1.0", "12.3", "n/a"),
        ("ADM-G, no guidance", "1.0", "10.94", "101.0"),
        ("ADM-G, guidance 1.0", "1.0", "4.59", "186.7"),
        ("VQVAE-2", "1.0", "~31", "~45"),
        ("VQGAN", "1.0", "17.04", "70.6"),
        ("VQGAN", "0.5", "10.26", "125.5"),
        ("VQGAN", "0.25", "7.35", "188.6"),
        ("ViT-VQGAN + VIM-Large", "1.0", "4.17", "175.1"),
        ("ViT-VQGAN + VIM-Large", "0.5", "3.04", "227.4"),
    ),
    ("quantize", "prior", "sample"),
    (
        CLOSE,
        "acceptance below 1 keeps what a ResNet-101 likes best; the prose gives IS 321.7 at a rate it does not state",
    ),
    groups=("samples",),
)

TABLE_7 = Table(
    7,
    "Linear probe on ImageNet, top-1",
    (
        MODEL,
        TOKENS,
        Column("Features", ours="features"),
        Column("Parameters", ours="prior"),
        Column("Top-1 (%)", figure="probe.top1", count=50_000, scale=100, digits=1),
    ),
    (
        ("Jigsaw", "–", "4096", "94M", "44.6"),
        ("RelativePosition", "–", "4096", "94M", "51.4"),
        ("Rotation", "–", "8192", "86M", "55.4"),
        ("AMDIM", "–", "8192", "626M", "68.1"),
        ("CPC v2", "–", "4096", "303M", "71.5"),
        ("MoCo", "–", "8192", "375M", "68.6"),
        ("SimCLR", "–", "8192", "375M", "76.5"),
        ("SwAV", "–", "2048", "93M", "75.3"),
        ("DINO", "–", "2048", "85M", "75.3"),
        ("BYOL", "–", "8192", "375M", "78.6"),
        ("BiGAN", "–", "512", "138M", "31.0"),
        ("BigBiGAN", "–", "4096", "86M", "56.6"),
        ("BigBiGAN", "–", "16384", "344M", "61.3"),
        ("iGPT-L", "32×32", "1536", "1362M", "60.3"),
        ("iGPT-L", "48×48", "1536", "1362M", "65.2"),
        ("iGPT-XL (extra data)", "64×64", "3072", "6801M", "68.7"),
        ("iGPT-XL (extra data, ensemble)", "64×64", "5×3072", "6801M", "72.0"),
        ("VIM-Base", "32×32", "1024", "650M", "65.1"),
        ("VIM-Large", "32×32", "2048", "1697M", "73.2"),
        ("VIM-Base + DALL-E dVAE", "32×32", "1024", "650M", "63.8"),
        ("VIM-Base + CNN-VQGAN", "32×32", "1024", "650M", "61.8"),
    ),
    ("quantize", "prior", "probe"),
    (
        "1024 features of VIM-Base stand against a width of 1536 in Table 2",
        "optimiser, rate, length and augmentation of the probe are not stated",
        "the tokenizer was trained without the perceptual loss, VIM-Large without dropout",
    ),
    groups=("probe",),
)

TABLE_8 = Table(
    8,
    "Size of the second stage, ImageNet at 256 × 256, nothing rejected",
    (MODEL, Column("Second stage", ours="prior"), TOKENS, FID, IS),
    (
        ("VQGAN", "1.4B", "16×16", "17.04", "70.6"),
        ("ViT-VQGAN + VIM-Base", "650M", "16×16", "11.20", "97.2"),
        ("ViT-VQGAN + VIM-Large", "1.7B", "16×16", "5.3", "149.9"),
        ("ViT-VQGAN + VIM-Base", "650M", "32×32", "8.81", "110.8"),
        ("ViT-VQGAN + VIM-Large", "1.7B", "32×32", "4.17", "175.1"),
    ),
    ("quantize", "prior", "sample"),
    ("the patch size behind 16×16 tokens is not stated; 16 pixels follow from the image's size", CLOSE),
    see=6,
)

TABLES = (TABLE_1, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8)
"""Tables with results; Table 2 lists sizes (see the README of `vim_core`)."""
