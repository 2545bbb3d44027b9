"""Is nothing sent to where it must not be, however that is written, and whatever a name leads to?"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.alerts.address import Allowed, chosen, mistake, parse_place, parse_url, unfit

PUBLIC = "93.184.215.14"
NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "fe80::a9fe:a9fe",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "168.63.129.16",
    "100.100.100.200",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "255.255.255.255",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
]
INSIDE = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "127.0.0.1",
    "::1",
    "fd12::1",
    "100.64.0.1",
    "::ffff:10.0.0.1",
]


def allowed(url: str, *, private: bool = False, http: bool = False) -> Allowed:
    place = frozenset({parse_url(url).place})
    return Allowed(place, place if private else frozenset(), place if http else frozenset())


@pytest.mark.parametrize("ip", NEVER)
def test_where_clouds_keep_credentials_nothing_is_sent_even_if_everything_is_allowed(ip):
    url = "https://hooks.example.com/x"
    everything = allowed(url, private=True, http=True)
    fit, fault = chosen([ip], parse_url(url), everything)
    assert fit == []
    assert "nothing is ever sent there" in fault
    literal = f"http://[{ip}]/latest" if ":" in ip else f"http://{ip}/latest"
    assert "nothing is ever sent there" in mistake(
        parse_url(literal), allowed(literal, private=True, http=True)
    )


def test_the_refusal_of_a_cloud_s_metadata_says_why():
    url = "http://169.254.169.254/latest/meta-data"
    assert mistake(parse_url(url), allowed(url, http=True)) == (
        "169.254.169.254 is 169.254.169.254, which is link-local, where clouds keep credentials; "
        "nothing is ever sent there"
    )


@pytest.mark.parametrize("ip", INSIDE)
def test_a_name_that_leads_inside_is_followed_only_where_that_is_allowed_by_name(ip):
    address = parse_url("https://hooks.example.com/x")
    fit, fault = chosen([ip], address, allowed("https://hooks.example.com/x"))
    assert fit == []
    assert 'say allow_private = ["hooks.example.com:443"]' in fault
    assert chosen([ip], address, allowed("https://hooks.example.com/x", private=True))[1] == ""


@given(st.ip_addresses())
def test_a_name_leads_to_public_addresses_alone_where_nothing_else_is_said(ip):
    url = "https://hooks.example.com/x"
    if not unfit(ip, parse_url(url), allowed(url)):
        assert ip.is_global
        assert not (ip.is_link_local or ip.is_multicast or ip.is_private or ip.is_loopback)


@given(st.ip_addresses(v=4))
def test_an_address_within_an_address_is_fit_only_if_it_is_itself(ip):
    url = "https://hooks.example.com/x"
    everything = allowed(url, private=True)
    for network in ("64:ff9b::", "::ffff:0:0"):
        whole = ipaddress.IPv6Address(int(ipaddress.IPv6Address(network)) + int(ip))
        if unfit(ip, parse_url(url), everything):
            assert unfit(whole, parse_url(url), everything)


def test_of_several_addresses_those_are_taken_that_are_fit():
    url = "https://hooks.example.com/x"
    fit, fault = chosen(["10.0.0.1", PUBLIC, PUBLIC], parse_url(url), allowed(url))
    assert [str(ip) for ip in fit] == [PUBLIC]
    assert fault == ""
    assert chosen([], parse_url(url), allowed(url)) == ([], "hooks.example.com has no address")


def test_what_is_not_on_the_list_is_refused_with_the_line_that_would_allow_it():
    other = allowed("https://hooks.example.com:8443/x")
    assert mistake(parse_url("https://hooks.example.com/x"), other) == (
        'hooks.example.com:443 is not allowed; if it is meant, say allow = ["hooks.example.com:443"]'
    )


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("http://127.0.0.1:9000/x", True),
        ("http://[::1]:9000/x", True),
        ("http://localhost:9000/x", True),
        ("http://hooks.example.com/x", False),
        ("http://10.0.0.1/x", False),
        ("https://10.0.0.1/x", True),
    ],
)
def test_without_encryption_events_go_to_loopback_alone_where_nothing_else_is_said(url, fine):
    fault = mistake(parse_url(url), allowed(url))
    assert ("is not encrypted; use https, or say allow_http" in fault) is not fine
    assert mistake(parse_url(url), allowed(url, http=True)) == ""


def test_localhost_has_to_be_this_machine():
    url = "http://localhost:9000/x"
    assert chosen(["127.0.0.1", "::1"], parse_url(url), allowed(url))[1] == ""
    assert "is not encrypted" in chosen([PUBLIC], parse_url(url), allowed(url))[1]
    assert "not on the public internet" in chosen(["10.0.0.1"], parse_url(url), allowed(url))[1]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "ftp://hooks.example.com/",
        "https:///x",
        "https://user:word@hooks.example.com/",
        "https://hooks.example.com/#x",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nX: y",
        "https://höoks.example.com/",
        "https://hooks_example.com/",
        "https://-a.example.com/",
        "https://[::1/",
        "https://" + "a" * 64 + ".example.com/",
        "https://hooks.example.com/" + "x" * 2000,
    ],
)
def test_what_is_no_url_of_a_receiver_is_refused(url):
    with pytest.raises(ValueError):
        parse_url(url)


@given(st.text(max_size=30) | st.text("htps:/@#.[]01ab?%", max_size=30).map("https://".__add__))
def test_any_text_is_a_url_or_refused_in_words(text):
    try:
        address = parse_url(text)
    except ValueError as error:
        assert str(error)
    else:
        assert parse_place(address.place) == address.place
        assert address.target.startswith(("/", "?"))


def test_a_url_is_taken_apart_and_its_path_is_not_shown():
    address = parse_url("https://Hooks.Example.com/services/T000/SECRET?x=1")
    assert (address.place, address.target) == ("hooks.example.com:443", "/services/T000/SECRET?x=1")
    assert address.authority == "hooks.example.com"
    assert "SECRET" not in repr(address)
    assert parse_url("http://[0:0::1]:80/").place == "[::1]:80"
    assert parse_url("http://[::1]/").authority == "[::1]"


@pytest.mark.parametrize(
    "text", ["", "hooks.example.com", "hooks.example.com:", "a:0", "a:65536", "a b:1", "a:٣"]
)
def test_what_is_no_host_and_port_is_refused(text):
    with pytest.raises(ValueError):
        parse_place(text)
