"""Base URLs: what is taken, in which form, and what is refused without repeating it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.core.types import BaseUrl
from rolemesh.wire.url import parse_url

GOOD = {
    "http://10.0.0.12:8014": BaseUrl("http", "10.0.0.12", 8014),
    "http://10.0.0.12:8014/": BaseUrl("http", "10.0.0.12", 8014),
    "http://10.0.0.12:8014/v1": BaseUrl("http", "10.0.0.12", 8014),
    "http://10.0.0.12:8014/v1/": BaseUrl("http", "10.0.0.12", 8014),
    "http://10.0.0.12:8014//v1//": BaseUrl("http", "10.0.0.12", 8014),
    "https://llm.example": BaseUrl("https", "llm.example", 443),
    "HTTPS://LLM.Example/API/v1": BaseUrl("https", "llm.example", 443, "/API"),
    "http://llm": BaseUrl("http", "llm", 80),
    "http://llama_server-1:8080": BaseUrl("http", "llama_server-1", 8080),
    "http://[::1]:8080/v1": BaseUrl("http", "::1", 8080),
    "http://[2001:DB8:0::1]": BaseUrl("http", "2001:db8::1", 80),
    "http://xn--bcher-kva.example": BaseUrl("http", "xn--bcher-kva.example", 80),
    "http://h/openai/deployments/a%20b": BaseUrl("http", "h", 80, "/openai/deployments/a%20b"),
    "http://h/v1beta": BaseUrl("http", "h", 80, "/v1beta"),
    "http://h/v1/v1": BaseUrl("http", "h", 80),
}


@pytest.mark.parametrize(("text", "url"), GOOD.items(), ids=GOOD)
def test_a_base_url_is_taken_apart(text: str, url: BaseUrl) -> None:
    assert parse_url(text) == url
    assert parse_url(str(url)) == url


BAD: dict[str, str] = {
    "": "printable|begins",
    "secret": "begins with http",
    "secret.example:8080": "begins with http",
    "ftp://secret": "begins with http",
    "file:///secret": "begins with http",
    "unix:///secret": "begins with http",
    "//secret": "begins with http",
    "http:/secret": "begins with http",
    "http://": "valid host",
    "http:///secret": "valid host",
    "http://:8080": "valid host",
    "http://user:secret@host": "credentials",
    "http://secret@host": "credentials",
    "http://host/?secret=1": "query",
    "http://host?": "query",
    "http://host/#secret": "fragment",
    "http://host#": "fragment",
    "http://host\\@secret": "credentials",
    "http://host/a\\secret": "valid path",
    "http://host:0": "port",
    "http://host:65536": "port",
    "http://host:080": "port",
    "http://host:+80": "port",
    "http://host:secret": "port",
    "http://host:": "port",
    "http://host:80:90": "port",
    "http://se cret": "printable",
    " http://secret": "printable",
    "http://secret\n": "printable",
    "http://sec\tret": "printable",
    "http://sec\x00ret": "printable",
    "http://sec\x7fret": "printable",
    "http://sécret": "xn--",
    "http://host/sécret": "printable",
    "http://-secret": "valid host",
    "http://secret..example": "valid host",
    "http://sec%72et": "valid host",
    "http://sec*ret": "valid host",
    "http://" + "a" * 64: "valid host",
    "http://" + "a." * 127 + "a": "valid host",
    "http://127.1": "IPv4",
    "http://0x7f.0.0.1": "IPv4",
    "http://0x7f000001": "IPv4",
    "http://2130706433": "IPv4",
    "http://127.0.0.256": "IPv4",
    "http://127.0.0.01": "IPv4",
    "http://[::1": "brackets",
    "http://::1": "valid host",
    "http://[secret]": "valid IPv6",
    "http://[fe80::1%eth0]": "zone",
    "http://[::1]secret": "brackets",
    "http://host/%zz": "valid path",
    "http://host/../secret": r"\. or \.\.",
    "http://host/%2E%2e/secret": r"\. or \.\.",
    "http://host/" + "a" * 3000: "longer",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=[f"{i}" for i in range(len(BAD))])
def test_what_is_no_base_url_is_refused_without_an_echo(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("must ")


@given(st.text() | st.text(alphabet="htps:/[]@.%0159av\\?#").map(lambda rest: "http://" + rest))
def test_any_text_is_a_base_url_or_a_value_error(text: str) -> None:
    try:
        url = parse_url(text)
    except ValueError:
        return
    assert parse_url(str(url)) == url
    assert not url.prefix.endswith(("/", "/v1"))
