"""Asking the gateway for a port of its own: PCP, NAT-PMP, UPnP.  The mapped endpoint becomes a candidate."""
