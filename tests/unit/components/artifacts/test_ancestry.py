"""Lineage goes up to the images and down to everything made from an artifact."""

from __future__ import annotations

from dataclasses import asdict

from components.artifacts import store
from components.artifacts.ancestry import downstream, upstream
from tests.support.archived import key, make


def test_up_to_the_images_and_down_to_the_last(root: str) -> None:
    images = make(root, "ingest", 1, config={"source": "builtin:digits"})
    tokenizer = make(root, "quantize", 2, [images])
    codes = make(root, "tokenize", 3, [images, tokenizer])
    prior = make(root, "prior", 4, [codes, tokenizer])
    made = [images, tokenizer, codes, prior]
    short = [key(number)[:8] for number in range(5)]
    about = [f"  digest {each.digest[:8]}" for each in made]
    assert list(upstream(prior, made).lines()) == [
        f"prior/{short[4]}{about[3]}",
        f"  input0: tokenize/{short[3]}{about[2]}",
        f"    input0: ingest/{short[1]}{about[0]}",
        "      images builtin:digits",
        f"    input1: quantize/{short[2]}{about[1]}",
        f"      input0: ingest/{short[1]}{about[0]}  (see above)",
        f"  input1: quantize/{short[2]}{about[1]}  (see above)",
    ]
    down = asdict(downstream(tokenizer, made))
    assert [branch["component"] for branch in down["branches"]] == ["tokenize", "prior"]
    assert down["branches"][0]["branches"][0]["fingerprint"] == key(4)
    assert down["branches"][0]["role"] == "as input1"
    assert down["branches"][1]["note"] == "see above"
    assert downstream(prior, made).branches == []


def test_what_is_gone_or_was_made_again_is_said(root: str) -> None:
    images = make(root, "ingest", 1)
    tokenizer = make(root, "quantize", 2, [images])
    codes = make(root, "tokenize", 3, [tokenizer])
    start = make(root, "quantize", 4, config={"init_from": tokenizer.folder})
    store.retire(root, tokenizer)
    again = make(root, "quantize", 2, attempt="second")
    up = upstream(codes, [again, codes, start])
    assert up.branches[0].note == f"it was digest {tokenizer.digest[:8]} when used; made again since"
    assert upstream(tokenizer, [tokenizer]).branches[0].note == "not there any more"
    down = {node.component: node for node in downstream(again, [again, codes, start]).branches}
    assert down["tokenize"].note == f"from digest {tokenizer.digest[:8]}, made before this one"
    assert down["quantize"].role == "as named in its settings"
