"""The command line: every command explains itself; words, exit codes and one-line errors."""

from __future__ import annotations

import io
import logging
import re
import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from pipelines.cli import common
from pipelines.cli import main as cli
from pipelines.orchestration import launch
from vim_core import __version__
from vim_core.errors import ConfigError, DataError

Capture = pytest.CaptureFixture[str]

EXAMPLE = re.compile(r"^  vimctl (.+?)(?:   .*)?$", re.MULTILINE)


def commands(parser: ArgumentParser, name: str = "") -> Iterator[tuple[str, ArgumentParser]]:
    """Every command below `parser` by its words, such as `sweep run`."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for word, below in action.choices.items():
                yield f"{name} {word}".strip(), below
                yield from commands(below, f"{name} {word}".strip())


COMMANDS = {name: parser for name, parser in commands(cli.build_parser()) if name != "job"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples_that_parse(name: str) -> None:
    parser = COMMANDS[name]
    assert parser.description
    assert [action.dest for action in parser._actions if not action.help and action.nargs != "A..."] == []
    examples = EXAMPLE.findall(parser.epilog or "")
    assert len(examples) in (2, 3)
    assert any(f"{example} ".startswith(f"{name} ") for example in examples)
    for example in examples:
        assert cli.parse(shlex.split(example)).action is not None


def test_the_help_of_all_lists_every_command_in_a_group(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert sorted(name for names in cli.GROUPS.values() for name in names) == sorted(
        name for name in COMMANDS if " " not in name
    )
    assert all(f"\n{title}:\n" in text for title in cli.GROUPS)
    assert "  run          Run a preset's components; what exists already is reused\n" in text


@pytest.mark.parametrize(
    "words",
    ["quantize --preset p a=1 b=2", "--preset p quantize a=1 b=2", "a=1 --preset=p b=2 quantize"],
)
def test_component_and_overrides_may_stand_anywhere(words: str) -> None:
    parsed = cli.parse(["run", *words.split()])
    assert parsed.preset == "p"
    assert common.split_words(parsed.words) == ("quantize", ["a=1", "b=2"])


def test_a_terminals_lines_end_between_words_and_files_have_none(capsys: Capture) -> None:
    text = " · ".join(f"figure_{index}\N{NO-BREAK SPACE}0.123" for index in range(4)) + f" /a/{'long-' * 12}path"
    for terminal, lines in ((True, 3), (False, 1)):
        out = io.StringIO()
        common.print_wrapped(Console(file=out, width=48, force_terminal=terminal, no_color=True), "3 of 14  ", text)
        printed = out.getvalue().splitlines()
        assert len(printed) == lines
        assert " ".join(out.getvalue().replace("\N{NO-BREAK SPACE}", "=").split()) == " ".join(
            f"3 of 14 {text}".replace("\N{NO-BREAK SPACE}", "=").split(" ")
        )
        assert all(line.startswith(" " * 9) for line in printed[1:])


def test_a_warning_is_printed_once_and_messages_for_developers_where_asked() -> None:
    logger, out = logging.getLogger("components.somewhere"), io.StringIO()
    handler = common.ConsoleHandler(Console(file=out))
    for text in ("twice", "twice", "once"):
        handler.emit(logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None))
    assert out.getvalue() == "twice\nonce\n"
    try:
        for verbose in (True, False):
            common.configure_logging(Console(file=out), verbose)
            assert logger.isEnabledFor(logging.DEBUG) is verbose
    finally:
        logging.getLogger("components").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ConfigError("prior.dropot: unknown\n setting"), 2, "vimctl: prior.dropot: unknown setting"),
        (DataError("image.png: truncated"), 1, "vimctl: image.png: truncated"),
        (KeyboardInterrupt(), 130, "\nvimctl: interrupted; finished work is kept, the same command continues"),
    ],
)
def test_an_error_for_people_is_one_line_and_a_status(
    fake: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture,
    error: BaseException, status: int, printed: str,
) -> None:  # fmt: skip
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(launch, "run", fail)
    assert cli.main(["run"]) == status
    assert capsys.readouterr().err == f"{printed}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ui --mlflow-port 99999", r"--mlflow-port: 99999: must lie in \[0, 65535\]"),
        ("cluster up --port -1", r"--port: -1: must lie in"),
        ("cluster up --nodes 0", "--nodes: 0: must be positive"),
        ("cluster up --cpus two", "--cpus: 'two' is no whole number"),
        ("plan --price -0.5", "--price: -0.5: must be 0 or positive"),
        ("plan --images 0", "--images: 0: must be positive"),
    ],
)
def test_numbers_of_options_have_ranges(words: str, message: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_terminal_of_few_letters_gets_what_it_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    assert cli.main(["presets"]) == 0
    common.print_line("train 1 · test 2 …")
    ascii_only.seek(0)
    assert ascii_only.read().endswith("train 1 ? test 2 ?\n")


def test_bare_command_prints_the_overview_and_version_is_short(capsys: Capture) -> None:
    for words, status, begins in (([], 2, "usage: vimctl COMMAND"), (["--version"], 0, f"vimctl {__version__}\n")):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == status
        assert capsys.readouterr().out.startswith(begins)


@pytest.mark.parametrize("words", [["run", "digits"], ["config", "digits"], ["submit", "digits"], ["run", "my.yaml"]])
def test_a_preset_in_the_place_of_a_component_is_named(words: list[str], capsys: Capture) -> None:
    assert cli.main(words) == 2
    assert f"{words[1]}: is a preset; name it with --preset {words[1]}" in capsys.readouterr().err


def test_mistakes_in_words_are_config_errors(fake: Any, capsys: Capture) -> None:
    assert cli.main(["run", "quantize", "prior"]) == 2
    assert "quantize prior: name one component" in capsys.readouterr().err
    assert cli.main(["run", "proir"]) == 2
    assert "did you mean prior?" in capsys.readouterr().err
    assert cli.main(["config", "quantize"]) == 2
    assert "quantize: expected key=value" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--frce"])
    assert caught.value.code == 2
    assert "--frce" in capsys.readouterr().err
