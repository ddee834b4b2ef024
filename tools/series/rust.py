# SPDX-License-Identifier: GPL-2.0
"""Turns a source file of this repository into one of the kernel's tree.

What is under rust/ext goes to two places: what knows nothing of AF_VSOCK to the `kernel` crate, the rest to a folder
`ext` of the driver. So paths change, items of the `kernel` crate are public, and where a path leads out of the crate
it begins with `kernel::`. Only `use` declarations, paths and visibilities change: code stays as it is.
"""

import re

# Where the modules of rust/ext are in the tree: the longest prefix counts. None: the kernel has it under another name.
IN_KERNEL = {
    "bindings": "bindings",
    "mm::PageBlock": "page::PageBlock",
    "mm::order_of": "page::order_of",
    "net::device": "net::device",
    "net::msg": "net::msg",
    "net::net_ratelimit": "net::net_ratelimit",
    "net::skbuff": "net::skbuff",
    "net::sock": "net::sock",
    "sync": "sync",
    "virtio": "virtio",
}
IN_DRIVER = {
    "debugfs": "debugfs",
    "module_info": "module_info",
    "module_param": "module_param",
    "net::vsock": "vsock",
    "net::zerocopy": "zerocopy",
    "time": "time",
    "trace": "trace",
    "work": "work",
    "workqueues": "workqueues",
}
# What the kernel has instead of the rest: nothing that need be imported, or this.
INSTEAD = {
    "alloc::gfp_as_raw": (),
    "compat::id_array": (),
    "compat::smp_mb": ("kernel::sync::atomic::Full", "kernel::sync::barrier::smp_mb"),
    "error::NetError": (),
}

# The names of error codes, which rust/ext has of its own.
CODES = {
    "Proto": "EPROTO",
    "MsgSize": "EMSGSIZE",
    "OpNotSupp": "EOPNOTSUPP",
    "AddrInUse": "EADDRINUSE",
    "AddrNotAvail": "EADDRNOTAVAIL",
    "ConnReset": "ECONNRESET",
    "NoBufs": "ENOBUFS",
    "ConnRefused": "ECONNREFUSED",
}

KUNIT = "CONFIG_VIRTIO_VSOCKETS_RUST_KUNIT_TEST"


def flatten(tree, prefix=()):
    """The leaves of a use tree, as (path, alias): a, b::{c, d as e} -> (a,), (b, c), (b, d)."""
    tree = re.sub(r"//.*", "", tree).strip()
    depth, item, items = 0, "", []
    for char in tree:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            items.append(item)
            item = ""
        else:
            item += char
    for item in (i.strip() for i in items + [item]):
        if not item:
            continue
        if match := re.fullmatch(r"([\w:]*?)(?:::)?\{(.*)\}", item, re.S):
            head = tuple(p for p in match[1].split("::") if p)
            yield from flatten(match[2], prefix + head)
        else:
            path, _, alias = item.partition(" as ")
            yield prefix + tuple(path.strip().split("::")), alias.strip()


def nest(leaves):
    """A use tree of these leaves, in the kernel's vertical form."""
    groups = {}
    for path, alias in leaves:
        groups.setdefault(path[0], []).append((path[1:], alias))
    items = []
    for head in sorted(groups, key=order):
        rest = groups[head]
        ends = [(p, a) for p, a in rest if not p]
        inner = [(p, a) for p, a in rest if p]
        if ends and inner:
            inner += [(("self",), a) for _, a in ends]
            ends = []
        for _, alias in ends:
            items.append(head + (f" as {alias}" if alias else ""))
        if inner:
            items.append(f"{head}::{nest(inner)}")
    if len(items) == 1:
        return items[0]
    return "{\n" + ",\n".join(items) + ", //\n}"


def order(name):
    """As rustfmt has it: modules and functions, types, constants."""
    return (name != "self", name != "super", 0 if name.islower() else 2 if name.isupper() else 1, name)


class Rewriter:
    """`module` is where the file was: a path under rust/ext, as net::skbuff, or None; `to` is 'kernel' or 'driver'."""

    def __init__(self, to, module, moved):
        self.to, self.module, self.moved = to, module, moved

    def place(self, path):
        """Where an item of rust/ext is now, as a path from this crate. None: nowhere."""
        if path in INSTEAD:
            return None
        for table, crate in ((IN_KERNEL, "kernel"), (IN_DRIVER, "driver")):
            for old in sorted(table, key=len, reverse=True):
                if path == old or path.startswith(old + "::"):
                    new = table[old] + path[len(old):]
                    if crate == "driver":
                        assert self.to == "driver", f"{self.module}: the kernel crate cannot use {path}"
                        return f"crate::ext::{new}"
                    return f"{'crate' if self.to == 'kernel' else 'kernel'}::{new}"
        raise ValueError(f"{self.module}: nobody knows where ext::{path} goes")

    def leaves(self, path):
        """What an import of this path has become: none, one or several."""
        instead = INSTEAD.get("::".join(path[2:])) if path[:2] == ("crate", "ext") else None
        if instead is None:
            return [self.leaf(path)]
        return [self.leaf(tuple(new.split("::"))) for new in instead]

    def leaf(self, path):
        text = "::".join(path)
        if text.startswith("crate::ext::"):
            return self.place(text[len("crate::ext::"):])
        if path[0] == "super" and self.module is not None:
            up = self.module.split("::")[:-1]
            there = "::".join(up + list(path[1:]))
            if re.match(r"net::(msg|skbuff|sock|vsock|zerocopy)\b", there) and not up[-1:] == ["vsock"] \
                    and not up[-1:] == ["skbuff"]:
                return self.place(there)
        if path[0] == "kernel" and self.to == "kernel":
            return "::".join(("crate",) + path[1:])
        return text

    def uses(self, block):
        """Rewrites private `use` declarations that follow each other."""
        roots = {}
        for tree in re.findall(r"^[ \t]*use\s([^;]+);", block, re.M):
            for path, alias in flatten(tree):
                for new in self.leaves(path):
                    entry = (tuple(new.split("::")), "" if alias == "ext_bindings" else alias)
                    leaves = roots.setdefault(entry[0][0], [])
                    if entry not in leaves:
                        leaves.append(entry)
        return "".join(f"use {nest(roots[root])};\n" for root in sorted(roots, key=order))

    def paths(self, text):
        """Rewrites paths in code, in macros and in comments."""
        def found(match):
            dollar, path = match[1], match[2]
            new = self.place(path)
            if new is None:
                return match[0]
            if new.startswith("kernel::") and not dollar:
                return new
            return (dollar or "") + new if new.startswith("crate::") else "::" + new

        text = text.replace("$crate::ext::compat::id_array!($($id),+)",
                            "$crate::device_id::IdArray::new_without_index([$($id),+])")
        text = re.sub(r"\bsmp_mb\(\)", "smp_mb(Full)", text)
        text = text.replace("ext_bindings::", "bindings::")
        text = re.sub(r"(\$)?crate::ext::((?:[a-z_]\w*::)*\w+)", found, text)
        if self.to == "kernel":
            text = text.replace("::kernel::", "$crate::")
            text = re.sub(r"(?<![\w$:])kernel::", "crate::", text)
        text = re.sub(r"\brvsock_helper_(\w+)", lambda m: self.moved.get(m[1], m[0]), text)
        return text

    def codes(self, text):
        name = "|".join(CODES)
        text = re.sub(rf"Error::from\(NetError::({name})\)", lambda m: CODES[m[1]], text)
        return re.sub(rf"NetError::({name})(?:\.into\(\))?", lambda m: CODES[m[1]], text)

    def flags(self, text):
        """`Flags::as_raw` is there for the kernel crate."""
        return re.sub(r"gfp_as_raw\((\w+)\)\?", r"\1.as_raw()", text)

    def visibility(self, text):
        """Items of the kernel crate are public; what ext keeps for itself is the crate's, or public if AF_VSOCK needs it."""
        inner = "pub" if re.match(r"net::(msg|skbuff|sock)\b", self.module) else "pub(crate)"
        text = text.replace("pub(in crate::ext)", inner)
        if self.module in ("net::msg", "net::skbuff", "net::sock"):
            text = text.replace("pub(super)", "pub")
        text = text.replace("pub(crate) static $", "pub static $")
        text = re.sub(r"^(macro_rules! \w+ \{)", r"#[macro_export]\n\1", text, flags=re.M)
        if inner == "pub(crate)" and self.module.startswith("mm"):
            return re.sub(r"pub\(crate\) (struct|const|fn alloc|fn len|fn order\(|fn copy)", r"pub \1", text)
        return text.replace("pub(crate)", "pub")

    def tests(self, text):
        text = text.replace('#[cfg(any(test, CONFIG_KUNIT = "y"))]', f"#[cfg({KUNIT})]")
        text = re.sub(r"#\[cfg_attr\(not\(test\), (kernel::macros::kunit_tests\(\w+\))\)\]", r"#[\1]", text)
        if self.to == "driver":
            text = text.replace('#[cfg(CONFIG_KUNIT = "y")]', f"#[cfg({KUNIT})]")
        return text

    def file(self, text):
        text = self.codes(text)
        if self.to == "kernel":
            text = self.flags(text)
        # Every other piece is a block of `use`; those in macros are paths like others.
        pieces = re.split(r"((?:^[ \t]*use\s[^;$]+;\n)+)", text, flags=re.M)
        text = "".join(self.uses(p) if i % 2 else self.paths(p) for i, p in enumerate(pieces))
        if self.to == "kernel":
            text = self.visibility(text)
        return self.tests(text)
