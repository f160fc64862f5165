import itertools

import pytest

from cyphonic.lab.firewall import Firewall
from cyphonic.lab.nat import NatKind
from cyphonic.lab.quality import Quality
from cyphonic.lab.topology import Role, TopologyError, load_topology, packaged, parse_topology

GOOD = """
[network.internet]
ipv4 = "203.0.113.0/24"
ipv6 = "2001:db8:1::/64"
[network.home]
ipv4 = "192.168.1.0/24"
[router.core]
serves = ["internet"]
[router.door]
uplink = "internet"
serves = ["home"]
nat = "symmetric"
udp_timeout = 5
[host.cloud]
network = "internet"
role = "cloud"
[host.four]
network = "internet"
families = ["ipv4"]
[host.laptop]
network = "home"
firewall = "stateful"
[link.laptop]
delay = 0.02
loss = 0.1
rate = 1_000_000
"""


def test_addresses_follow_from_the_order_in_the_file() -> None:
    topology = parse_topology(GOOD, "good.toml")
    assert [str(address) for address in topology.host("cloud").attachment.addresses] == [
        "203.0.113.11/24",
        "2001:db8:1::11/64",
    ]
    assert [str(address) for address in topology.host("four").attachment.addresses] == ["203.0.113.12/24"]
    core, door = topology.routers
    assert str(core.serves[0].ipv6) == "2001:db8:1::1/64"
    assert door.uplink is not None
    assert str(door.uplink.ipv4) == "203.0.113.13/24"
    assert (door.nat, door.udp_timeout) == (NatKind.SYMMETRIC, 5)
    assert topology.host("laptop").firewall is Firewall.STATEFUL
    assert topology.links == {"laptop": Quality(delay=0.02, loss=0.1, rate=1_000_000)}


def test_a_host_is_a_node_and_the_topology_is_called_like_its_file_unless_it_says_otherwise() -> None:
    topology = parse_topology(GOOD, "/somewhere/good.toml")
    assert topology.name == "good"
    assert [host.name for host in topology.of_role(Role.CLOUD)] == ["cloud"]
    assert [host.name for host in topology.of_role(Role.NODE)] == ["four", "laptop"]


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('ipv4 = "192.168.1.0/24"', 'ipv4 = "192.168.1.1/24"', "network.home.ipv4", "host bits"),
        ('ipv4 = "192.168.1.0/24"', 'ipv4 = "192.168.1.0/30"', "network.home.ipv4", "longer than /24"),
        ('ipv4 = "192.168.1.0/24"', "ipv4 = 4", "network.home.ipv4", "not a string"),
        ('ipv4 = "192.168.1.0/24"', "", "network.home", "needs ipv4"),
        ('ipv4 = "192.168.1.0/24"', 'mask = "/24"', "network.home.mask", "unknown key"),
        ('network = "home"', 'network = "hone"', "host.laptop.network", "no network 'hone'"),
        ('network = "home"', "", "host.laptop.network", "is missing"),
        ('network = "home"', 'network = "home"\nfamilies = ["ipv6"]', "host.laptop.families", "'ipv6'"),
        ('network = "home"', 'network = "home"\nfamilies = []', "host.laptop.families", "empty"),
        ('network = "home"', 'network = "home"\nfamilies = "ipv4"', "host.laptop.families", "list of strings"),
        ('role = "cloud"', 'role = "king"', "host.cloud.role", "none of cloud, node, plain"),
        ('nat = "symmetric"', 'nat = "conical"', "router.door.nat", "none of none, full-cone"),
        ('firewall = "stateful"', 'firewall = "brick"', "host.laptop.firewall", "none of none, stateful, no-udp"),
        ('serves = ["internet"]', 'serves = ["internet"]\nfirewall = "no-udp"', "router.core.firewall", "uplink"),
        ("[link.laptop]", "[link.lap]", "link.lap", "no such host"),
        ("[link.laptop]", "[link.core]", "link.core", "router with an uplink"),
        ("delay = 0.02", "delay = 20", "link.laptop.delay", "from 0 to 10"),
        ("delay = 0.02", "delay = true", "link.laptop.delay", "not a number"),
        ("delay = 0.02", "lag = 20", "link.laptop.lag", "unknown key"),
        ("loss = 0.1", "loss = 1.1", "link.laptop.loss", "from 0 to 1"),
        ("rate = 1_000_000", "rate = 1e6", "link.laptop.rate", "whole number of bits"),
        ("rate = 1_000_000", 'seed = "x"', "link.laptop.seed", "whole number"),
        ("udp_timeout = 5", "udp_timeout = 0", "router.door.udp_timeout", "whole number"),
        ("[router.door]", "[router.cloud]", "router.cloud", "a host has the same name"),
        ("[router.door]", "[router.Door]", "router.Door", "a-z"),
        ("[router.door]", "[router.switch]", "router.switch", "not 'switch'"),
        ('serves = ["home"]', 'serves = ["internet"]', "router.door.uplink", "also in serves"),
        ('serves = ["home"]', "serves = []", "router.door.serves", "empty"),
        ('serves = ["home"]', "", "router.door.serves", "missing"),
        ('uplink = "internet"', "", "router.door.nat", "needs an uplink"),
        ('serves = ["internet"]', 'serves = ["internet", "home"]', "router.door.serves", "already served by"),
        ('serves = ["internet"]', 'serves = ["internet"]\nuplink = "home"', "router.core.uplink", "ring"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_reason(old: str, new: str, key: str, reason: str) -> None:
    assert old in GOOD
    with pytest.raises(TopologyError) as caught:
        parse_topology(GOOD.replace(old, new, 1), "bad.toml")
    assert caught.value.key == key
    assert reason in caught.value.message
    assert caught.value.message.startswith("bad.toml: ")
    assert caught.value.exit_code == 2


def test_broken_toml_is_refused_with_its_line() -> None:
    with pytest.raises(TopologyError, match=r"bad\.toml: .*line 2"):
        parse_topology("\nname = oops\n", "bad.toml")


def test_a_missing_file_is_refused_with_the_names_that_would_do() -> None:
    with pytest.raises(TopologyError, match=r"packaged topologies: .*demo"):
        load_topology("no-such-file.toml")


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_topology_is_sound(name: str) -> None:
    assert load_topology(name).name == name


@pytest.mark.parametrize(
    ("first", "second", "direct"),
    [
        ("full-cone", "full-cone-two", True),
        ("full-cone", "symmetric", True),
        ("address-restricted", "symmetric", True),
        ("port-restricted", "address-restricted", True),
        ("port-restricted", "symmetric", False),
        ("symmetric", "port-restricted", False),
        ("symmetric", "stranger", True),
    ],
)
def test_two_nats_say_whether_a_hole_can_be_punched(first: str, second: str, direct: bool) -> None:
    topology = load_topology("nats")
    assert topology.can_be_direct(topology.host(first), topology.host(second)) == direct


def test_without_a_common_address_family_nothing_is_direct() -> None:
    demo = load_topology("demo")
    hosts = {host.name: host for host in demo.hosts}
    direct = {name for name in hosts if demo.can_be_direct(hosts["six"], hosts[name])}
    assert direct == {"six", "dual", "cloud"}


def test_the_demo_has_every_kind_of_nat_and_of_family() -> None:
    topology = load_topology("demo")
    assert len(topology.of_role(Role.CLOUD)) == 1
    nodes = topology.of_role(Role.NODE)
    kinds = {node.name: [nat.nat for nat in topology.nats_before(node)] for node in nodes}
    assert {kind for nats in kinds.values() for kind in nats} == set(NatKind) - {NatKind.NONE}
    assert topology.nats_before(topology.host("twin-a")) == topology.nats_before(topology.host("twin-b")) != []
    families = {tuple(address.version for address in node.attachment.addresses) for node in nodes}
    assert families == {(4,), (6,), (4, 6)}


def test_relayed_is_expected_only_where_a_symmetric_nat_meets_ports_or_families_do_not_meet() -> None:
    topology = load_topology("demo")
    relayed = {
        frozenset({first.name, second.name})
        for first, second in itertools.permutations(topology.of_role(Role.NODE), 2)
        if not topology.can_be_direct(first, second)
    }
    symmetric = {frozenset({sym, port}) for sym in ("sym", "sym-b") for port in ("port", "twin-a", "twin-b")}
    four_only = {node.name for node in topology.of_role(Role.NODE)} - {"six", "dual"}
    assert relayed == symmetric | {frozenset({"sym", "sym-b"})} | {frozenset({"six", name}) for name in four_only}


CARRIER = """
[network.internet]
ipv4 = "203.0.113.0/24"
[network.carrier]
ipv4 = "100.64.0.0/24"
[network.one]
ipv4 = "192.168.1.0/24"
[network.two]
ipv4 = "192.168.2.0/24"
[router.core]
serves = ["internet"]
[router.cgnat]
uplink = "internet"
serves = ["carrier"]
nat = "OUTER"
[router.first]
uplink = "carrier"
serves = ["one"]
nat = "full-cone"
[router.second]
uplink = "carrier"
serves = ["two"]
nat = "port-restricted"
[host.open]
network = "internet"
[host.one]
network = "one"
[host.two]
network = "two"
"""


@pytest.mark.parametrize(
    ("outer", "direct"), [("full-cone", True), ("port-restricted", False), ("symmetric", False)]
)
def test_two_homes_behind_one_carrier_meet_only_where_it_hairpins(outer: str, direct: bool) -> None:
    topology = parse_topology(CARRIER.replace("OUTER", outer))
    assert [nat.name for nat in topology.nats_before(topology.host("one"))] == ["first", "cgnat"]
    assert topology.can_be_direct(topology.host("one"), topology.host("two")) == direct
    assert topology.can_be_direct(topology.host("one"), topology.host("open"))
