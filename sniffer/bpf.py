"""Capture filters in the language of pcap-filter(7): what the kernel hands to a live capture, and what it leaves out.

By default everything is kept that may carry calls: IPv4 and IPv6 whole, fragments too, under VLAN tags, MPLS and PPPoE
(tunnels inside IP are IP). A filter that somebody asks for narrows this to IP packets for which it holds, plain or under up
to two VLAN tags: tcpdump's `host 10.0.0.1` sees no tagged frame, and its `not host 10.0.0.1` lets every tagged one through.
"""

from __future__ import annotations

import re

from rokuon.sniffer.packet import LINKTYPE_ETHERNET, LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2

__all__ = ["capture_filter"]

# MPLS unicast and multicast, PPPoE sessions, 802.1Q, 802.1ad, and what QinQ was before it
_CARRIERS = (0x8847, 0x8848, 0x8864, 0x8100, 0x88A8, 0x9100)
_IP = "ip or ip6"
_LATER_FRAGMENTS = "ip[6:2] & 0x1fff != 0 or ip6[6] = 44"
_OWN_LAYERS = re.compile(r"\b(vlan|mpls|pppoes|pppoed|geneve)\b")
_PORTS = re.compile(r"\b(port|portrange)\b")


def capture_filter(asked: str = "", link_type: int = LINKTYPE_ETHERNET) -> str:
    """The filter to be set on an interface.

    `asked`: what the packets have to fulfil besides, "" for nothing. A filter that speaks of `vlan`, `mpls`, `pppoes` or
    `geneve` knows where it looks and is taken as it is, since these words move where all behind them look. Where it asks for
    ports, later fragments are kept besides: they have none, and without them no message that was fragmented is whole.
    `link_type`: LINKTYPE of the interface; only Ethernet has tags that a filter can look under.
    """
    asked = asked.strip()
    if asked and _OWN_LAYERS.search(asked):
        return asked
    if not asked:
        if link_type == LINKTYPE_ETHERNET:
            # `vlan` last, because it moves what comes behind it; it also finds tags that the kernel took out of the frame
            return " or ".join([_IP, *(f"ether proto {kind:#06x}" for kind in _CARRIERS), "vlan"])
        if link_type in (LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2):
            return " or ".join([_IP, *(f"ether proto {kind:#06x}" for kind in _CARRIERS)])
        return _IP
    plain = f"(({asked}) or {_LATER_FRAGMENTS})" if _PORTS.search(asked) else f"({asked})"
    plain = f"({_IP}) and {plain}"
    if link_type != LINKTYPE_ETHERNET:
        return plain
    return f"({plain}) or (vlan and (({plain}) or (vlan and {plain})))"
