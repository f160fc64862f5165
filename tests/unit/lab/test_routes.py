from cyphonic.lab.routes import routes
from cyphonic.lab.topology import load_topology, parse_topology


def text(topology_name: str) -> dict[str, list[str]]:
    table = routes(load_topology(topology_name))
    return {name: [f"{route.prefix or 'default'} via {route.gateway}" for route in table[name]] for name in table}


def test_hosts_take_the_serving_router_as_default_in_each_family() -> None:
    table = text("demo")
    assert table["dual"] == ["default via 203.0.113.1", "default via 2001:db8:1::1"]
    assert table["open"] == ["default via 203.0.113.1"]
    assert table["cone"] == ["default via 192.168.1.1"]
    assert table["six"] == ["default via 2001:db8:6::1"]


def test_a_router_learns_what_stands_behind_others_but_not_behind_a_nat() -> None:
    assert text("demo")["core"] == ["2001:db8:6::/64 via 2001:db8:1::20"]


def test_prefixes_climb_through_several_routers() -> None:
    topology = parse_topology(
        """
        [network.top]
        ipv4 = "203.0.113.0/24"
        [network.middle]
        ipv4 = "198.51.100.0/24"
        [network.bottom]
        ipv4 = "192.0.2.0/24"
        [router.one]
        serves = ["top"]
        [router.two]
        uplink = "top"
        serves = ["middle"]
        [router.three]
        uplink = "middle"
        serves = ["bottom"]
        [host.deep]
        network = "bottom"
        """
    )
    table = routes(topology)
    assert {(str(route.prefix), str(route.gateway)) for route in table["one"]} == {
        ("198.51.100.0/24", "203.0.113.11"),
        ("192.0.2.0/24", "203.0.113.11"),
    }
    assert ("192.0.2.0/24", "198.51.100.11") in {(str(r.prefix), str(r.gateway)) for r in table["two"]}
