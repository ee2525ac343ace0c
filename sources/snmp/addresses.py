"""What names a host that speaks SNMP: ``snmp://[COMMUNITY@]HOST[:PORT][?OPTION=VALUE&…]``.

Options: `credential` (a name in the settings), `version` (1, 2c, 3), `context` (SNMPv3's), `resource_id` (of the host's samples, instead
of HOST); and Ceilometer's `auth_proto`, `priv_proto` and `priv_password` for ``snmp://USER:PASSWORD@HOST``, which is SNMPv3.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote

from nephoscope.redaction import redacted
from nephoscope.settings.sections import CredentialSettings, HardwareSettings
from sources.addresses import address_of, credential_of, place_of
from sources.pollster import PermanentError

PORT: Final = 161
_OPTIONS: Final = ("credential", "version", "context", "resource_id", "auth_proto", "priv_proto", "priv_password")
_VERSIONS: Final = {"1": "1", "2": "2c", "2c": "2c", "3": "3"}
_AUTH: Final = ("md5", "sha", "sha224", "sha256", "sha384", "sha512")
_PRIV: Final = ("des", "3des", "aes128", "aes192", "aes256")


class Access(NamedTuple):
    """How a host lets us in. `version`: 1, 2c or 3; the rest of 3 is '' where it is not used."""

    version: str
    community: str = ""
    user: str = ""
    auth_proto: str = ""
    auth_password: str = ""
    priv_proto: str = ""
    priv_password: str = ""
    context: str = ""

    def __repr__(self) -> str:
        return f"Access(version={self.version!r}, user={self.user!r})"  # A community is a secret as well.


class Address(NamedTuple):
    """A host, how it lets us in, and what its samples are named. `url` may be shown."""

    host: str
    port: int
    access: Access
    resource_id: str
    url: str

    @property
    def place(self) -> str:
        """HOST:PORT, for messages."""
        return place_of(self.host, self.port)


def takes(resource: str) -> bool:
    """Whether a resource that a source names is a host to ask by SNMP."""
    return resource[:7].lower() == "snmp://"


def parse(resource: str, settings: HardwareSettings) -> Address:
    """Take a URL apart and look its credential up. Raises PermanentError, which shows no secret."""
    shown = redacted(resource)
    user, _, rest = resource.partition("://")[2].rpartition("@")
    try:
        # A community may have an @, or anything else.
        found = address_of(f"snmp://{rest}", PORT, _OPTIONS)
        access = _access(user, found.options, settings) if found else None
    except PermanentError as error:
        raise PermanentError(f"{shown}: {error}") from None
    if found is None or access is None or found.path.strip("/"):
        raise PermanentError(f"{shown} is no snmp://[COMMUNITY@]HOST[:PORT]")
    return Address(found.host, found.port, access, found.options.get("resource_id") or found.host, shown)


def _access(user: str, options: dict[str, str], settings: HardwareSettings) -> Access:
    for option, value in options.items():
        known = {"version": tuple(_VERSIONS), "auth_proto": _AUTH, "priv_proto": _PRIV}.get(option)
        if known and value not in known:
            raise PermanentError(f"{option} is one of {', '.join(known)}")
    name = options.get("credential", "")
    version = _VERSIONS.get(options.get("version", ""), "")
    if user and name:
        raise PermanentError("names a credential, and a community or user as well")
    if user:
        first, colon, password = user.partition(":")
        if colon or version == "3":
            given = CredentialSettings(
                user=unquote(first),
                password=unquote(password),
                auth_proto=options.get("auth_proto", ""),
                priv_proto=options.get("priv_proto", ""),
                priv_password=options.get("priv_password", ""),
            )
        else:
            given = CredentialSettings(community=unquote(user))
    else:
        given = credential_of(name, settings) or CredentialSettings(community="public")
    community = given.community.get_secret_value()
    if version != "3" and (community or (version and not given.user)):
        if not community:
            raise PermanentError(f"SNMP {version} needs a community, and the credential has none")
        return Access(version or "2c", community)
    if version in {"1", "2c"}:
        raise PermanentError(f"SNMP {version} knows communities, not users")
    return _user(given, options.get("context", ""))


def _user(given: CredentialSettings, context: str) -> Access:
    """SNMPv3's user, with what it needs and no more."""
    password, priv_password = given.password.get_secret_value(), given.priv_password.get_secret_value()
    if not given.user:
        raise PermanentError("SNMP 3 needs a user")
    if (given.auth_proto or priv_password or given.priv_proto) and not password:
        raise PermanentError(f"the user {given.user!r} needs a password")
    if given.priv_proto and not priv_password:
        priv_password = password  # As net-snmp's tools take the one for the other.
    for secret in filter(None, (password, priv_password)):
        if len(secret) < 8:
            raise PermanentError(f"a password of the user {given.user!r} is shorter than the 8 characters of RFC 3414")
    return Access(
        "3",
        user=given.user,
        auth_proto=(given.auth_proto or "md5") if password else "",
        auth_password=password,
        priv_proto=(given.priv_proto or "des") if priv_password else "",
        priv_password=priv_password,
        context=context,
    )
