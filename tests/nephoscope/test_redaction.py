"""What is shown of a URL: everything but its secrets."""

import pytest

from nephoscope.redaction import redacted


@pytest.mark.parametrize(
    "text, shown",
    [
        ("snmp://s3cret@10.0.0.1:161", "snmp://***@10.0.0.1:161"),
        ("snmp://10.0.0.1", "snmp://10.0.0.1"),
        ("snmp://@10.0.0.1?credential=rack", "snmp://@10.0.0.1?credential=rack"),
        (
            "snmp://user:s3cret@h?auth_proto=sha&priv_password=s3cret",
            "snmp://user:***@h?auth_proto=sha&priv_password=***",
        ),
        ("ipmi://admin@10.0.0.1:623", "ipmi://admin@10.0.0.1:623"),
        ("ipmi://admin:s3cret@[fe80::1]:623", "ipmi://admin:***@[fe80::1]:623"),
        ("https://u:s3cret@h/p?q=1", "https://u:***@h/p?q=1"),
        ("https://h/p?api_key=s3cret&q=1#x", "https://h/p?api_key=***&q=1#x"),
        ("https://h/p?q=1&X-Auth-Token=s3cret", "https://h/p?q=1&X-Auth-Token=***"),
        ("https://h/mail?to=a@b", "https://h/mail?to=a@b"),
        ("kwapi://s3cret@h:5000", "kwapi://***@h:5000"),
        ("host-1", "host-1"),
        ("", ""),
    ],
)
def test_who_is_spoken_to_is_shown_and_no_secret(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "snmp://s3/cret@10.0.0.1",
        "snmp://s3@cret@10.0.0.1",
        "snmp://s3?cret@10.0.0.1",
        "snmp://user:s3cret@",
        "SNMP://s3cret@10.0.0.1",
        "discover://snmp://s3cret@10.0.0.1",
        "discover://snmp://a,https://u:s3cret@h",
        "cannot reach snmp://s3cret@10.0.0.1:161, nor 'https://u:s3cret@h'",
    ],
)
def test_what_is_malformed_or_within_a_text_hides_its_secret_as_well(text):
    assert "cret" not in redacted(text)


def test_the_rest_of_a_text_stays():
    assert redacted("no answer of snmp://x@h: 2 of 3 (a@b)") == "no answer of snmp://***@h: 2 of 3 (a@b)"
