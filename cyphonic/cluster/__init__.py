"""Every tier of the cloud and an embedded Redis on one machine, as supervised child processes."""
