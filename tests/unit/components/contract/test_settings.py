"""Presets load whole and strictly; a mistake names its key and the nearest right one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.contract import registry, settings
from tests.support.common import CONF
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError


def load(preset: str, *overrides: str) -> PipelineConfig:
    return settings.load(preset, overrides, CONF)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("components: [ingest]\nprior: {steps: 7, optim: {lr: 1e-3}}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prior.dropot=0.1", r"^prior\.dropot: unknown setting .*did you mean prior\.dropout\?$"),
        ("priro.steps=3", r"did you mean prior\.steps\?"),
        ("temperature=2", r"did you mean sample\.temperature\?"),
        ("extends=digits", "extends: unknown setting"),
        ("prior=3", r"prior='3': is a group.*such as prior\."),
        ("prior.steps.more=3", r"prior\.steps\.more: unknown setting"),
        ("prior.steps=abc", r"prior\.steps='abc': expected int, found str"),
        ("prior.steps=", r"prior\.steps=None: expected int"),
        ("prior.optim.lr=fast", r"prior\.optim\.lr='fast': expected a finite number, found str"),
        ("ingest.classes=cat", r"ingest\.classes='cat': expected list\[str\], found str"),
        ("prior.steps=[1,", r"prior\.steps=\[1,: the value is not valid YAML"),
        ("prior.steps", "'prior.steps': write an override as key=value"),
        (
            "prior.steps=${nowhere.there}",
            r"^prior\.steps=\$\{nowhere\.there\} \(command line\): .*'nowhere\.there' not found",
        ),
        ("prior.steps=${nowhere", r"^prior\.steps=\$\{nowhere: not a valid interpolation"),
        ("ingest.limit=-1", r"^ingest\.limit=-1: must be 0 or positive"),
        ("quantize.discriminator.r1_every=0", r"^quantize\.discriminator\.r1_every=0: must be positive"),
        ("prior.steps=???", r"prior\.steps"),
        ("run.root=gr\udcf6n", r"^run\.root='gr\\udcf6n': is no text in UTF-8.*set LANG=C\.UTF-8"),
        ("prior.dropout=2", r"^prior\.dropout=2\.0: must lie in"),
        ("prior.stack.dim=100", r"^prior\.stack\.dim=100: must be divisible by heads"),
        ("ingest.labelled=false", r"^components=\[.*\]: classify needs classes, and ingest\.labelled=false"),
        ("components=[ingest,qantize]", r"'qantize' is no component; did you mean quantize\?"),
        ("components=[ingest,prior]", "prior needs tokenize"),
    ],
)
def test_a_mistake_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load("digits", override)
    assert "\n" not in str(caught.value)


def test_a_conditional_prior_of_images_without_labels_is_refused() -> None:
    words = ("ingest.labelled=false", "components=[ingest,quantize,tokenize,prior]")
    with pytest.raises(ConfigError, match=r"^prior\.conditional=True: needs classes.*set prior\.conditional=false"):
        load("digits", *words)
    assert not load("digits", *words, "prior.conditional=false").ingest.labelled


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    plain, changed = load("digits"), load("digits", "prior.steps=12", "prior.optim.lr=1e-5", "report.title=2026")
    assert (changed.prior.steps, changed.prior.optim.lr, changed.report.title) == (12, 1e-5, "2026")
    changed.prior.steps, changed.prior.optim.lr = plain.prior.steps, plain.prior.optim.lr
    changed.report.title = plain.report.title
    assert changed == plain


def test_what_differs_from_the_preset_names_the_run() -> None:
    words = ["prior.dropout=0.2", "prior.steps=3", "prior.steps=4", "run.workers=2", "ingest.classes=[1,a]"]
    same = f"quantize.steps={load('digits').quantize.steps}"
    config = load("digits", *words, same)
    assert config.run.changed == ["prior.dropout=0.2", "prior.steps=4", 'ingest.classes=["1","a"]']
    assert settings.from_yaml(settings.to_yaml(config), "job").run.changed == config.run.changed
    assert load("digits").run.changed == []


def test_later_overrides_win_and_may_refer_to_others() -> None:
    config = load("digits", "prior.steps=5", "prior.steps=6", "prior.batch=${prior.steps}")
    assert (config.prior.steps, config.prior.batch) == (6, 6)


def test_a_setting_spelled_otherwise_is_the_same() -> None:
    assert repr(load("digits", "prior.dropout=0")) == repr(load("digits", "prior.dropout=0.0"))
    components = load("digits").components
    assert load("digits", f"components=[{','.join(reversed(components))}]").components == components


def test_a_preset_may_extend_another_from_anywhere(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "child.yaml").write_text("extends: base\nprior: {optim: {beta1: 0.5}}\n")
    (elsewhere / "grandchild.yaml").write_text("extends: child\nprior: {steps: 9}\n")
    config = settings.load(str(elsewhere / "grandchild.yaml"), [], folder)
    assert (config.preset, config.prior.steps, config.prior.optim.lr, config.prior.optim.beta1) == (
        "grandchild",
        9,
        1e-3,
        0.5,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: bse", r"preset 'bse' is unknown; did you mean base\?"),
        ("extends: mine", "extends itself"),
        ("extends: [base]", "expected the name of one preset"),
        ("prior:\n  dropot: 1", r"prior\.dropot: unknown setting \(.*mine\.yaml\); did you mean prior\.dropout\?"),
        ("prior.steps: 5", r"prior\.steps \(.*\): write it on its own line"),
        ("prior:", r"prior=None: is a group"),
        ("prior: {steps: '5'}", r"prior\.steps='5': expected int"),
        ("prior: {steps: 5, steps: 6}", "not valid YAML.*duplicate"),
        ("prior: {steps: 5", "not valid YAML"),
        ("- ingest", "expected settings as `key: value`"),
        ("report: {title: !!python/object/apply:os.system ['touch pwned']}", "not valid YAML"),
        ("1: 2", "1: unknown setting"),
        ("prior: {steps: '${a'}", r"mine\.yaml: prior\.steps: not a valid interpolation"),
    ],
)
def test_a_broken_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(folder)
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        settings.load("mine", [], folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "pwned").exists()


def test_a_bad_interpolation_blames_the_file_that_has_it(folder: Path) -> None:
    (folder / "parent.yaml").write_text("extends: base\nprior: {batch: '${nowhere.there}'}\n")
    (folder / "child.yaml").write_text("extends: parent\nprior: {steps: 5}\n")
    for overrides in ([], ["prior.steps=${prior.batch}"]):
        with pytest.raises(ConfigError, match=r"^prior\.batch=\$\{nowhere\.there\} \(.*parent\.yaml\): .*not found$"):
            settings.load("child", overrides, folder)


def test_where_a_setting_is_text_a_value_counts_as_it_is_written(folder: Path) -> None:
    words = ["components=[ingest]", "sample.classes=[3, 007, 1e3, on, 'b c']", "report.title=${prior.steps}"]
    config = settings.load("base", words, folder)
    assert config.sample.classes == ["3", "007", "1e3", "on", "b c"]
    assert config.report.title == "7"
    (folder / "mine.yaml").write_text(
        "extends: base\ningest: {classes: [0, 01, no], source_digest: 12345678}\n"
        "prior: {compile: on}\nrun: {beam_options: &all [1.50]}\nsample: {classes: *all}\n"
    )
    config = settings.load("mine", [], folder)
    assert (config.ingest.classes, config.ingest.source_digest) == (["0", "01", "no"], "12345678")
    assert (config.prior.compile, config.run.beam_options, config.sample.classes) == ("on", ["1.50"], ["1.50"])
    assert settings.with_values(config, {"sample.classes": [3]}).sample.classes == ["3"]
    with pytest.raises(ConfigError, match=r"sample\.classes\[0\]=True: expected str"):
        settings.with_values(config, {"sample.classes": [True]})


def test_an_unknown_preset_names_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"preset 'digit' is unknown; did you mean digits\?"):
        load("digit")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml': there is no such file"):
        settings.load(str(folder / "nowhere.yaml"))


def test_the_root_comes_from_the_override_then_the_preset_then_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "component", lambda name: SimpleNamespace(INPUTS={}))
    monkeypatch.delenv("VIM_ROOT", raising=False)
    assert settings.load("base", [], folder).run.root == "artifacts"
    monkeypatch.setenv("VIM_ROOT", "/from/environment")
    assert settings.load("base", [], folder).run.root == "/from/environment"
    (folder / "rooted.yaml").write_text("extends: base\nrun: {root: /from/preset}\n")
    assert settings.load("rooted", [], folder).run.root == "/from/preset"
    assert settings.load("rooted", ["run.root=/given"], folder).run.root == "/given"
