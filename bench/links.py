#!/usr/bin/env python
"""Nodes of one machine that are joined by links of a given speed: network namespaces, a bridge and ``tc``; Linux, root.

Every node is a network namespace with an interface ``eth0`` that is joined to a bridge; what passes in either direction
goes through a token bucket (``tc ... tbf``), and waits half the given time of a round trip (``tc ... netem``) if any
is. Ranks in different namespaces talk by TCP: they have no other way, though they share cores and memory.

The file also is the launcher that MPICH's ``mpiexec`` is told to start its processes on a node with, in place of ssh:
``python bench/links.py HOST COMMAND``.
"""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

SUBNET = "10.99.7"
BRIDGE = "slidebr0"
BURST_MS = 1.0
"""What a link lets pass at once, in milliseconds of its speed."""


def possible():
    """Return why there can be no such nodes here, None if there can."""
    if os.geteuid():
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"{missing[0]} is not installed" if missing else None


def launcher():
    """Return where mpiexec is, beside Python or in the path; without one the program ends."""
    found = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return found or sys.exit("there is no mpiexec: pip install mpich, or the system's MPI")


@contextmanager
def nodes(n, mbit=None):
    """Give the hosts of n nodes, each with a link of so many Mbit/s in either direction; None for no limit."""
    tear_down()
    try:
        call(f"ip link add {BRIDGE} type bridge")
        call(f"ip addr add {SUBNET}.254/24 dev {BRIDGE}")
        call(f"ip link set {BRIDGE} up")
        for i in range(1, n + 1):
            node, there = namespace(i), f"slidev{i}"
            call(f"ip netns add {node}")
            call(f"ip link add {there} type veth peer name eth0 netns {node}")
            call(f"ip link set {there} master {BRIDGE} up")
            call(f"ip -n {node} addr add {SUBNET}.{i}/24 dev eth0")
            call(f"ip -n {node} link set lo up")
            call(f"ip -n {node} link set eth0 up")
            for prefix, device in ((f"ip netns exec {node} ", "eth0"), ("", there)):
                if mbit:
                    burst = max(16 << 10, round(125 * mbit * BURST_MS))
                    call(f"{prefix}tc qdisc add dev {device} root tbf rate {mbit}mbit burst {burst} latency 100ms")
        yield [f"{SUBNET}.{i}" for i in range(1, n + 1)]
    finally:
        tear_down()


def tear_down():
    """Remove the nodes that there are, a killed run's too."""
    # A namespace may outlive its name for a while, and its device with it.
    for device in Path("/sys/class/net").glob("slidev*"):
        call(f"ip link del {device.name}")
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if line.split()[0].startswith("slidenode"):
            call(f"ip netns del {line.split()[0]}")
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def namespace(i):
    return f"slidenode{i}"


def call(command):
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


def mpiexec(hosts, command, *, ranks=None):
    """Return the command line that runs one on each node (or `ranks` in turn), by TCP between any two."""
    return [
        launcher(),
        *("-launcher", "ssh", "-launcher-exec", str(Path(__file__).resolve()), "-localhost", f"{SUBNET}.254"),
        *("-hosts", ",".join(hosts), "-ppn", "1", "-n", str(ranks or len(hosts))),
        *("-genv", "MPIR_CVAR_CH4_NETMOD", "ofi", "-genv", "FI_PROVIDER", "tcp", "-genv", "FI_TCP_IFACE", "eth0"),
        *command,
    ]


def sent_bytes(i):
    """Return what node i has sent so far, headers of all layers included."""
    directory = Path(f"/sys/class/net/slidev{i}/statistics")
    return int((directory / "rx_bytes").read_text())


def main():
    arguments = sys.argv[1:]
    while arguments and arguments[0].startswith("-"):
        arguments.pop(0)
    host, *command = arguments
    node = namespace(int(host.rpartition(".")[2]))
    os.execvp("ip", ["ip", "netns", "exec", node, "sh", "-c", " ".join(command)])


if __name__ == "__main__":
    main()
