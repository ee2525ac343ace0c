"""An agent as a process: no secret of its targets is in its log, its state folder or the back end."""

import subprocess
import sys
import time

import pytest
from redis import Redis

from tests.servers import redis as servers
from tests.servers import snmpd

SECRET = "s3cret-word"


@pytest.mark.slow
def test_no_secret_of_a_target_is_in_log_state_or_back_end(tmp_path):
    with servers.running(tmp_path) as back_end, snmpd.silent() as port:
        (tmp_path / "hosts").write_text(f"snmp://{SECRET}@127.0.0.1:{port}?resource_id=other\nsnmp://{SECRET}@/x\n")
        (tmp_path / "polling.yaml").write_text(
            "sources:\n"
            f"  - {{name: a, interval: 2, meters: ['hardware.*', power], resources: ['snmp://{SECRET}@127.0.0.1:{port}',\n"
            f"     'snmp://{SECRET}@h/x', 'ipmi://u:{SECRET}@127.0.0.1/x', 'kwapi://127.0.0.1:1?credential=k']}}\n"
            "  - {name: b, interval: 2, meters: ['hardware.*']}\n"
        )
        (tmp_path / "nephoscope.yaml").write_text(
            "state_dir: state\npolling_cfg_file: polling.yaml\nmetrics: {listen: ''}\n"
            f"coordination: {{backend_url: '{back_end.url}'}}\n"
            f"hardware: {{hosts: hosts, credentials: {{k: {{token: {SECRET}}}}}, snmp_timeout: 0.4}}\n"
        )
        command = [sys.executable, "-m", "nephoscope.cli", "agent", "--config", str(tmp_path / "nephoscope.yaml")]
        with (tmp_path / "log").open("w") as out:
            agent = subprocess.Popen([*command, "--namespace", "central"], stdout=out, stderr=out)
            try:
                wanted = {
                    f"snmp://***@127.0.0.1:{port} failed",
                    "snmp://***@h/x failed",
                    "ipmi://u:***@",
                    "resource_id=other failed",
                }
                deadline = time.monotonic() + 90
                while not all(w in (tmp_path / "log").read_text() for w in (*wanted, "kwapi://127.0.0.1:1")):
                    assert agent.poll() is None
                    assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.2)
                with Redis(port=back_end.port) as client:
                    stored = b"".join(client.dump(key) for key in client.keys("*"))
            finally:
                agent.terminate()
                agent.wait(60)

        assert stored
        assert SECRET.encode() not in stored
        assert SECRET not in (tmp_path / "log").read_text()
        state = [f for f in (tmp_path / "state").rglob("*") if f.is_file()]
        assert state
        assert not [f for f in state if SECRET.encode() in f.read_bytes()]
