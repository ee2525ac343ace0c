"""URLs of hosts that speak SNMP, and how they let us in."""

import pytest

from nephoscope.settings import load_settings
from sources.pollster import PermanentError
from sources.snmp.addresses import Access, parse, takes

CREDENTIALS = {
    "rack": {"community": "c0mm"},
    "core": {"user": "u", "password": "longenough", "auth_proto": "sha", "priv_proto": "aes128"},
    "short": {"user": "u", "password": "s3cret"},
}


def hardware(tmp_path, **more):
    flags = {"state_dir": tmp_path, "hardware.credentials": CREDENTIALS}
    return load_settings(environment={}, flags=flags | {f"hardware.{k}": v for k, v in more.items()}).hardware


@pytest.mark.parametrize(
    "url, access",
    [
        ("snmp://c@h", Access("2c", "c")),
        ("snmp://c%40%3Ad@h?version=1", Access("1", "c@:d")),
        ("snmp://h", Access("2c", "public")),
        ("snmp://@h?credential=rack", Access("2c", "c0mm")),
        ("snmp://h?credential=rack&version=1", Access("1", "c0mm")),
        ("snmp://h?credential=core", Access("3", "", "u", "sha", "longenough", "aes128", "longenough")),
        ("snmp://u:longenough@h", Access("3", "", "u", "md5", "longenough")),
        ("snmp://u@h?version=3&context=x", Access("3", "", "u", context="x")),
        (
            "snmp://u:longenough@h?priv_password=longenough2",
            Access("3", "", "u", "md5", "longenough", "des", "longenough2"),
        ),
    ],
)
def test_a_url_says_how_the_host_lets_us_in(tmp_path, url, access):
    assert parse(url, hardware(tmp_path)).access == access


def test_host_port_and_resource(tmp_path):
    one = parse("snmp://c@[2001:db8::1]:1161?resource_id=switch-1", hardware(tmp_path))
    assert (one.host, one.port, one.place, one.resource_id) == ("2001:db8::1", 1161, "[2001:db8::1]:1161", "switch-1")
    assert parse("snmp://10.0.0.1", hardware(tmp_path)).place == "10.0.0.1:161"
    assert takes("SNMP://h")
    assert not takes("host-1")


def test_hosts_that_name_none_have_the_default_or_the_read_only_user(tmp_path):
    more = {"readonly_user_name": "ro", "readonly_user_password": "longenough", "readonly_user_auth_proto": "sha"}
    assert parse("snmp://h", hardware(tmp_path, **more)).access == Access("3", "", "ro", "sha", "longenough")
    assert parse("snmp://c@h", hardware(tmp_path, **more)).access == Access("2c", "c")
    default = {"credentials": {"default": {"community": "other"}}}
    assert parse("snmp://h", hardware(tmp_path, **more, **default)).access == Access("2c", "other")


@pytest.mark.parametrize(
    "url, words",
    [
        ("snmp://s3cret@", "is no snmp://"),
        ("snmp://s3cret@h/path", "is no snmp://"),
        ("snmp://s3cret@h:port", "is no snmp://"),
        ("snmp://s3cret@[::1", "is no snmp://"),
        ("snmp://s3cret@h?verion=1", "no option 'verion' (did you mean 'version'?)"),
        ("snmp://s3cret@h?version=4", "version is one of 1, 2, 2c, 3"),
        ("snmp://u:s3cret@h?auth_proto=md4", "auth_proto is one of md5"),
        ("snmp://u:s3cret@h", "shorter than the 8 characters"),
        ("snmp://h?credential=short", "shorter than the 8 characters"),
        ("snmp://h?credential=rak", "no credential 'rak' (did you mean 'rack'?)"),
        ("snmp://h?credential=core&version=2c", "knows communities, not users"),
        ("snmp://s3cret@h?credential=rack", "a credential, and a community"),
        ("snmp://u@h?version=3&priv_password=s3cret", "needs a password"),
    ],
)
def test_what_cannot_be_used_is_said_without_the_secret(tmp_path, url, words):
    with pytest.raises(PermanentError) as caught:
        parse(url, hardware(tmp_path))
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_access_shows_no_secret():
    assert "s3cret" not in repr(Access("2c", "s3cret", auth_password="s3cret"))
