"""The services' configuration files: Debian's defaults with what a test needs, everything on the loopback and in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SECRET = "s3cret-of-the-services"
TOKEN_CACHE = 5
"""Seconds for which a service believes a token without asking Keystone."""


@dataclass(frozen=True)
class Place:
    """Where everything lies: the folder, ports by service, and the servers that the services use."""

    folder: Path
    ports: dict[str, int]
    database_port: int
    database_user: str
    broker: str

    def url(self, service: str) -> str:
        """The address of a service."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def database(self, name: str) -> str:
        """The URL of a database."""
        return f"mysql+pymysql://{self.database_user}@127.0.0.1:{self.database_port}/{name}?charset=utf8"


def authtoken(place: Place, user: str) -> str:
    """How a service checks tokens, and where it sends notifications."""
    return f"""
[keystone_authtoken]
www_authenticate_uri = {place.url("keystone")}
auth_url = {place.url("keystone")}
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = {user}
password = {SECRET}
# A token that is revoked is to be refused soon.
token_cache_time = {TOKEN_CACHE}
[oslo_messaging_notifications]
driver = messagingv2
transport_url = {place.broker}
"""


def user_of(place: Place, section: str, user: str) -> str:
    """How a service speaks to another."""
    return f"""
[{section}]
auth_url = {place.url("keystone")}
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = {user}
password = {SECRET}
region_name = RegionOne
"""


def keystone(place: Place, token_lifetime: int = 3600) -> str:
    return f"""
[DEFAULT]
transport_url = {place.broker}
[database]
connection = {place.database("keystone")}
[token]
provider = fernet
expiration = {token_lifetime}
[fernet_tokens]
key_repository = {place.folder}/keystone-fernet
[credential]
key_repository = {place.folder}/keystone-credential
[identity]
password_hash_rounds = 4
[cache]
enabled = false
"""


def glance(place: Place) -> str:
    images = place.folder / "images"
    return f"""
[DEFAULT]
bind_host = 127.0.0.1
bind_port = {place.ports["glance"]}
workers = 0
enabled_backends = file1:file
log_file =
[database]
connection = {place.database("glance")}
[glance_store]
default_backend = file1
[file1]
filesystem_store_datadir = {images}
[os_glance_staging_store]
filesystem_store_datadir = {images}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {images}/tasks
[paste_deploy]
flavor = keystone
config_file = /etc/glance/glance-api-paste.ini
{authtoken(place, "glance")}
"""


def neutron(place: Place) -> str:
    return f"""
[DEFAULT]
bind_host = 127.0.0.1
bind_port = {place.ports["neutron"]}
core_plugin = ml2
service_plugins = router,vpnaas
auth_strategy = keystone
transport_url = {place.broker}
api_workers = 0
rpc_workers = 0
rpc_state_report_workers = 0
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
state_path = {place.folder}/neutron
api_paste_config = /etc/neutron/api-paste.ini
[database]
connection = {place.database("neutron")}
[oslo_concurrency]
lock_path = {place.folder}/neutron/lock
[quotas]
quota_port = -1
[service_providers]
service_provider = VPN:openswan:neutron_vpnaas.services.vpn.service_drivers.ipsec.IPsecVPNDriver:default
[ml2]
type_drivers = local,flat,vlan,vxlan
tenant_network_types = vxlan
mechanism_drivers = openvswitch
[ml2_type_flat]
flat_networks = *
[ml2_type_vxlan]
vni_ranges = 1:10000
{authtoken(place, "neutron")}
"""


def cinder(place: Place) -> str:
    return f"""
[DEFAULT]
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = {place.ports["cinder"]}
osapi_volume_workers = 1
auth_strategy = keystone
transport_url = {place.broker}
enabled_backends = fake1
api_paste_config = /etc/cinder/api-paste.ini
state_path = {place.folder}/cinder
glance_api_servers = {place.url("glance")}
backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
backup_posix_path = {place.folder}/cinder/backups
quota_volumes = 100
[fake1]
volume_driver = cinder.tests.fake_driver.FakeLoggingVolumeDriver
volume_backend_name = fake1
[database]
connection = {place.database("cinder")}
[coordination]
backend_url = file://{place.folder}/cinder/coordination
[oslo_concurrency]
lock_path = {place.folder}/cinder/lock
{authtoken(place, "cinder")}
"""


CINDER_WRAPPER = '''\
"""Runs one of Cinder's programs. Debian 12's oslo.messaging leaves out of a request's context what Cinder insists on."""
import eventlet
eventlet.monkey_patch()
import runpy, sys
from cinder.context import RequestContext
given = RequestContext.from_dict.__func__
RequestContext.from_dict = classmethod(lambda cls, v: given(cls, dict(v, read_deleted=v.get("read_deleted") or "no")))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
'''


def octavia(place: Place) -> str:
    return f"""
[DEFAULT]
transport_url = {place.broker}
[api_settings]
bind_host = 127.0.0.1
bind_port = {place.ports["octavia"]}
auth_strategy = keystone
enabled_provider_drivers = noop_driver: noop
default_provider_driver = noop_driver
[database]
connection = {place.database("octavia")}
{user_of(place, "service_auth", "neutron")}
[driver_agent]
status_socket_path = {place.folder}/octavia/status.sock
stats_socket_path = {place.folder}/octavia/stats.sock
get_socket_path = {place.folder}/octavia/get.sock
[networking]
allow_vip_network_id = true
[controller_worker]
network_driver = network_noop_driver
{authtoken(place, "neutron")}
"""


def placement(place: Place) -> str:
    return f"""
[placement_database]
connection = {place.database("placement")}
[api]
auth_strategy = keystone
{authtoken(place, "placement").partition("[oslo_messaging")[0]}
"""


def nova(place: Place) -> str:
    folder = place.folder / "nova"
    return f"""
[DEFAULT]
transport_url = {place.broker}
state_path = {folder}
instances_path = {folder}/instances
compute_driver = fake.FakeDriver
host = fakehost1
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = {place.ports["nova"]}
osapi_compute_workers = 1
enabled_apis = osapi_compute
reserved_host_memory_mb = 0
[api_database]
connection = {place.database("nova_api")}
[database]
connection = {place.database("nova")}
[api]
auth_strategy = keystone
[wsgi]
api_paste_config = /etc/nova/api-paste.ini
[conductor]
workers = 1
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 2
[filter_scheduler]
enabled_filters = ComputeFilter
[oslo_concurrency]
lock_path = {folder}/lock
[glance]
api_servers = {place.url("glance")}
[cinder]
os_region_name = RegionOne
{user_of(place, "placement", "placement")}
{user_of(place, "neutron", "neutron")}
{user_of(place, "service_user", "nova")}
[vnc]
enabled = false
{authtoken(place, "nova")}
"""


SWIFT = """\
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = gold
default = yes
"""


def swift_node(place: Place, kind: str) -> str:
    folder = place.folder / "swift"
    return f"""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {place.ports[f"swift-{kind}"]}
workers = 0
mount_check = false
disable_fallocate = true
user = root
swift_dir = {folder}
devices = {folder}/node
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
[container-updater]
interval = 2
"""


def swift_proxy(place: Place) -> str:
    return f"""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {place.ports["swift"]}
workers = 0
user = root
swift_dir = {place.folder}/swift
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats authtoken keystoneauth copy proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {place.url("keystone")}
auth_url = {place.url("keystone")}
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = swift
password = {SECRET}
delay_auth_decision = True
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
reseller_admin_role = ResellerAdmin
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:copy]
use = egg:swift#copy
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
"""
