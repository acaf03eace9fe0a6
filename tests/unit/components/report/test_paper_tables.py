"""The paper's tables: whole rows of numbers, and the same experiment printed twice is the same."""

from __future__ import annotations

import pytest

from components.report.paper_tables import Table, tables

TABLE_1, TABLE_3, TABLE_4, TABLE_6, TABLE_8 = (table for table in tables() if table.number in (1, 3, 4, 6, 8))


def column(table: Table, title: str) -> int:
    return [one.title for one in table.columns].index(title)


def cells(table: Table, titles: tuple[str, ...], **wanted: str) -> list[tuple[str, ...]]:
    """The cells below `titles` of the rows whose cell below each keyword's title (underscores for blanks) is given."""
    known = {name.replace("_", " "): value for name, value in wanted.items()}
    rows = [row for row in table.rows if all(row[column(table, name)] == value for name, value in known.items())]
    return [tuple(row[column(table, title)] for title in titles) for row in rows]


@pytest.mark.parametrize("table", tables(), ids=lambda table: str(table.number))
def test_rows_are_whole_and_figures_are_numbers(table: Table) -> None:
    assert table.rows
    for row in table.rows:
        assert len(row) == len(table.columns), row
        for cell, one in zip(row, table.columns, strict=True):
            if one.figure and cell != "n/a":
                float(cell.removeprefix("~"))


def test_tokenizers_of_table_1_are_those_of_table_4() -> None:
    shared = ("images/s", "l2 (×10⁻³)", "Logit-Laplace", "FID", "IS")
    for sizes, architecture in (("Small-Small", "ViT"), ("Base-Base", "ViT"), ("Small-Large", "ViT")):
        [one] = cells(TABLE_1, shared, **{"Encoder-decoder": sizes})
        assert one in cells(TABLE_4, shared, **{"Encoder-decoder": sizes, "Architecture": architecture})
    [one] = cells(TABLE_1, shared, **{"Encoder-decoder": "channels × 1"})
    assert cells(TABLE_4, shared, Architecture="CNN") == [one]


def test_table_3_has_the_large_decoder_of_table_4() -> None:
    assert cells(TABLE_3, ("FID",), Model="ViT-VQGAN (Small-Large)") == cells(
        TABLE_4, ("FID",), **{"Encoder-decoder": "Small-Large"}
    )


def test_table_8_has_the_rows_of_table_6_without_rejection() -> None:
    both = ("FID", "IS")
    [large] = cells(TABLE_6, both, Model="ViT-VQGAN + VIM-Large", Acceptance="1.0")
    assert cells(TABLE_8, both, Model="ViT-VQGAN + VIM-Large", Tokens="32×32") == [large]
    assert cells(TABLE_8, both, Model="VQGAN") == cells(TABLE_6, both, Model="VQGAN", Acceptance="1.0")
