"""Instances of this host, by libvirt: CPU, memory, disks, network.

A poll reads a *part* of the host's domains by bulk statistics (VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT), in processes of its own that can be
killed: `worker` is what such a process does, `pool` keeps them, `part` reads a part whatever hangs, `domain` and `readings` make
samples of it, `system` joins it all. Why so: docs/decisions/0100-libvirt-targets.md and 0101-libvirt-processes.md.

Guarantee: reads only, over a read-only connection; a domain that hangs costs only its own samples of memory and disks. What libvirt does not tell of a
domain gives no reading, never a 0.
"""
