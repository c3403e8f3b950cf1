from __future__ import annotations

from pathlib import Path

import pytest

from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway, parse
from rolemesh.config.tree import Leaf, Origin, at, nearest_origin, plain
from rolemesh.errors import ConfigError
from tests.config.conftest import Load, Problems

EMPTY = ["", "\n", "# nothing\n", "{}", "---\n", "--- {}\n...\n", "null"]


def test_without_a_key_everything_has_its_default(load: Load) -> None:
    config = load("version: 1").config
    assert (config.gateway.host, config.gateway.port) == ("127.0.0.1", 8000)
    assert (config.timeouts.connect_s, config.timeouts.first_byte_s) == (5.0, 600.0)
    assert config.models == {}


@pytest.mark.parametrize("text", EMPTY)
def test_an_empty_base_is_refused_for_it_may_have_been_cut_off(
    problems: Problems, text: str
) -> None:
    says = "0.yaml: is empty: `rolemesh init gateway` writes a first configuration"
    assert problems(text) == [says]
    assert problems(text, "version: 1") == [says]


@pytest.mark.parametrize("text", EMPTY)
def test_an_override_may_be_empty(load: Load, text: str) -> None:
    assert load("gateway: {port: 9000}", text).config.gateway.port == 9000


def test_every_problem_is_told_at_once_with_file_line_and_key(problems: Problems) -> None:
    base = """\
version: 2
defualt_model: x
gateway:
  port: 99999
  hots: a
models:
  writer:
    type: proxy
    proxy_url: 5
"""
    over = "timeouts: {idle_s: 0}\nauth: [a]\n"
    found = problems(base, over)
    assert found.pop(4).startswith("0.yaml:9: models.writer.proxy_url: must ")
    assert found == [
        "0.yaml:1: version: must be 1, the only version there is",
        "0.yaml:2: defualt_model: unknown key; the nearest is default_model",
        "0.yaml:4: gateway.port: must be a whole number from 0 to 65535",
        "0.yaml:5: gateway.hots: unknown key; the nearest is host",
        "1.yaml:1: timeouts.idle_s: must be a number of seconds, more than 0 and at most 31536000",
        "1.yaml:2: auth: must be a mapping of keys",
    ]


def test_a_key_written_twice_is_a_problem(problems: Problems) -> None:
    assert problems("models:\n  a: {proxy_url: 'http://a'}\n  a: {proxy_url: 'http://b'}\n") == [
        "0.yaml:3: models.a: is written twice in one mapping; first at {}:2".format("0.yaml")
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1", 2),
        ("version: 1\n\tb: 2", 2),
        ("a: 1\nb: *nothing", 2),
        ("a: 'x\nb: 1", 2),
        ("version: 1\n---\nversion: 1", 2),
        ("a: %x", 1),
    ],
)
def test_a_syntax_error_has_a_line(problems: Problems, text: str, line: int) -> None:
    (problem,) = problems(text)
    assert problem.startswith(f"0.yaml:{line}: is not valid YAML: ")


def test_syntax_errors_of_all_files_are_told(problems: Problems) -> None:
    found = problems("a: [", "b: {")
    assert [line.split(":")[0] for line in found] == ["0.yaml", "1.yaml"]


def test_a_syntax_error_does_not_repeat_what_may_be_a_key(problems: Problems) -> None:
    found = problems("auth: {client_api_keys: [*verysecret]}")
    assert "verysecret" not in "".join(found)


@pytest.mark.parametrize("text", ["5", "[a]", "text", '"text"'])
def test_a_file_that_is_no_mapping_is_told(problems: Problems, text: str) -> None:
    assert problems(text) == ["0.yaml:1: the file must be a mapping of keys"]


def test_a_control_character_is_told(problems: Problems) -> None:
    (problem,) = problems("version: 1\nlog: \x01")
    assert "is not valid YAML: a character that YAML does not allow" in problem


def test_a_file_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"log: \xe4")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8 \(byte 5\)"):
        load_gateway(Sources((str(path),)), {})


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_gateway(Sources((path,)), {})


def test_aliases_are_written_out(load: Load) -> None:
    config = load(
        "models:\n"
        "  a: &a {proxy_url: 'http://a', defaults: &d {temperature: 1}}\n"
        "  b: {<<: *a, proxy_url: 'http://b'}\n"
        "  c: {type: discovered, defaults: *d}\n"
    ).config
    assert config.models["b"].offer.defaults == {"temperature": 1}
    assert config.models["c"].offer.defaults == {"temperature": 1}
    assert str(config.models["b"].proxy_url) == "http://b"  # type: ignore[union-attr]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
CHAIN = "a0: &a0 {x: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{x: *a{n}}}\n" for n in range(99))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "has more than 100000 values"),
        ("a: &a [*a]", "an alias without an anchor before it"),
        ("a: &a {b: *a}", "an alias without an anchor before it"),
        ("a: &a {<<: *a}", "an alias without an anchor before it"),
        (CHAIN, "is nested too deep"),
        ("a: " + "[" * 200 + "]" * 200, "is nested too deep"),
        ("a: " + "[" * 900, "is nested too deep"),
        ("a: " + "[" * 50_000, "nest"),  # some releases of libyaml say it themselves
    ],
)
def test_aliases_and_nesting_are_bounded(problems: Problems, text: str, says: str) -> None:
    (problem,) = problems(text)
    assert says in problem


@pytest.mark.parametrize(
    "text", ["a: !!python/object:os.system x", "a: !env X", "a: !!binary eA=="]
)
def test_tags_are_refused(problems: Problems, text: str) -> None:
    assert "0.yaml:1: a: YAML tags are not supported here" in problems(text)


@pytest.mark.parametrize("text", ["? [a, b]\n: 1", "? {a: b}\n: 1"])
def test_a_key_that_is_no_text_is_told(problems: Problems, text: str) -> None:
    assert problems(text) == ["0.yaml:1: a key must be plain text"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-1.5", -1.5),
        ("1e3", 1000.0),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("12:30", "12:30"),
        ("no", "no"),
        ("2026-01-01", "2026-01-01"),
        (".inf", ".inf"),
        ("true", True),
        ("~", None),
        ("'5'", "5"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    tree, problems = parse(f"a: {text}", "f")
    assert not problems
    assert plain(tree) == {"a": value}


def test_every_part_knows_its_line() -> None:
    tree, _ = parse("a:\n  b: |\n    text\n  c:\n    - x\n    - y\n", "f")
    assert nearest_origin(tree, ("a",)) == Origin("f", 1)
    assert nearest_origin(tree, ("a", "b")) == Origin("f", 2)
    assert at(tree, ("a", "c", 1)) == Leaf("y", "y", Origin("f", 6))


def test_odd_keys_are_shown_quoted_and_cut(problems: Problems) -> None:
    (problem, long) = problems('"a\\nb.c": 1\n' + "k" * 500 + ": 1")
    assert problem.startswith('0.yaml:1: "a\\nb.c": unknown key')
    assert len(long) < 400


def test_a_problem_is_told_once_in_the_file_that_has_the_last_word(problems: Problems) -> None:
    assert problems("gateway: {port: a}", "gateway:\n  port: b") == [
        "1.yaml:2: gateway.port: must be a whole number from 0 to 65535"
    ]


def test_null_is_as_if_the_key_was_not_written(load: Load) -> None:
    config = load(
        "gateway: {port: 9000}\nlog: {level: debug}\nmodels: {a: {proxy_url: 'http://a'}}",
        "gateway: null\nlog: {level: null}\nmodels: {a: null}",
    ).config
    assert (config.gateway.port, config.log.level, config.models) == (8000, "info", {})


def test_an_unknown_key_is_a_problem_even_with_null(problems: Problems) -> None:
    (problem,) = problems("modles: null")
    assert "unknown key; the nearest is models" in problem


def test_null_within_a_default_is_json(load: Load) -> None:
    text = "models: {a: {proxy_url: 'http://a', defaults: {stop: null, bias: {x: null}}}}"
    assert load(text).config.models["a"].offer.defaults == {"bias": {"x": None}}


@pytest.mark.parametrize("value", [".nan", "${N:-NaN}"])
def test_a_default_that_json_cannot_say_stays_text(load: Load, value: str) -> None:
    defaults = load(f"models: {{a: {{proxy_url: 'http://a', defaults: {{x: '{value}'}}}}}}")
    assert isinstance(defaults.config.models["a"].offer.defaults["x"], str)


def test_options_of_the_command_line_win_over_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("gateway: {port: 1}")
    options = {("gateway.port", "--port"): "2", ("gateway.host", "--host"): "::1"}
    config = load_gateway(Sources((str(path),), settings=options), {}).config
    assert (config.gateway.host, config.gateway.port) == ("::1", 2)


def test_a_bad_option_is_a_problem_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("version: 1")
    options = {("gateway.host", "--host"): "0.0.0.0", ("gateway.port", "--port"): "${PORT}"}
    with pytest.raises(ConfigError) as caught:
        load_gateway(Sources((str(path),), settings=options), {"PORT": "1"})
    lines = caught.value.message.split("\n")
    assert "--port: gateway.port: must be a whole number from 0 to 65535" in lines
    assert any("auth.client_api_keys: is empty" in line for line in lines)
