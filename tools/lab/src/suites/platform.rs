// SPDX-License-Identifier: GPL-2.0

//! vhost-vsock on other platforms: behind an IOMMU, on x86 and on arm64, and as PCI was before virtio 1.0.

use anyhow::{ensure, Context, Result};

use super::{machines::has_features, messages, Test, LONG};
use crate::{
    config::Driver,
    kernel::{Arch, Kernel},
    session::{Session, Side, GUEST_CID},
};

/// The last of x86 may cost the host VM the guests' CID.
pub const TESTS: &[Test] = &[
    Test {
        name: "platform: a transitional device, streams and messages both ways",
        run: |s| {
            on(s, TRANSITIONAL, "", |s| {
                has_id(s, "0x1012")?;
                negotiated(s, VERSION_1, 0)?;
                works(s)
            })
        },
    },
    Test {
        name: "platform: a legacy device, streams and messages both ways",
        run: |s| {
            on(s, LEGACY, "", |s| {
                has_id(s, "0x1012")?;
                negotiated(s, 0, VERSION_1)?;
                works(s)
            })
        },
    },
    Test {
        name: BEHIND_IOMMU,
        run: |s| {
            on(s, IOMMU, "intel_iommu=on iommu.strict=1", |s| {
                is_translated(s)?;
                works(s)?;
                unbind(s)
            })
        },
    },
    Test {
        name: BEHIND_SMMU,
        run: |s| {
            on(s, SMMU, "iommu.strict=1", |s| {
                is_translated(s)?;
                works(s)?;
                unbind(s)
            })
        },
    },
];

const BEHIND_IOMMU: &str = "platform: behind an IOMMU, streams and messages both ways";
const BEHIND_SMMU: &str = "platform: behind an SMMU, streams and messages both ways";

/// Whether guests with this kernel can run a test of vhost-vsock. Ours for x86 knows no IOMMU; guests of arm64 run what is of
/// their platform.
pub fn runs_on(kernel: &Kernel, test: &str) -> bool {
    match kernel.arch {
        Arch::Arm64 => test == BEHIND_SMMU,
        Arch::X86_64 | Arch::Um => {
            test != BEHIND_SMMU && (kernel.is_debians || test != BEHIND_IOMMU)
        }
    }
}

const VERSION_1: u64 = 1 << 32;
const ACCESS_PLATFORM: u64 = 1 << 33;

const IOMMU: &[&str] = &[
    "-device",
    "intel-iommu,intremap=off,device-iotlb=on",
    "-global",
    "vhost-vsock-pci.iommu_platform=on",
    "-global",
    "vhost-vsock-pci.ats=on",
];
/// Without "ats": QEMU's has no part in what a device itself keeps of addresses. What vhost keeps it has it forget.
const SMMU: &[&str] = &[
    "-machine",
    "iommu=smmuv3",
    "-global",
    "vhost-vsock-pci.iommu_platform=on",
];
const TRANSITIONAL: &[&str] = &[
    "-global",
    "vhost-vsock-device.x-disable-legacy-check=on",
    "-global",
    "vhost-vsock-pci.disable-legacy=off",
];
const LEGACY: &[&str] = &[
    "-global",
    "vhost-vsock-device.x-disable-legacy-check=on",
    "-global",
    "vhost-vsock-pci.disable-legacy=off",
    "-global",
    "vhost-vsock-pci.disable-modern=on",
];

/// Runs a test in a guest of its own, for which QEMU and the kernel are told so much more.
fn on(
    s: &mut Session,
    arguments: &[&str],
    append: &'static str,
    test: fn(&mut Session) -> Result<()>,
) -> Result<()> {
    s.discard_guest();
    s.extra_arguments = arguments.iter().map(|s| s.to_string()).collect();
    s.extra_append = append;
    let outcome = s.ensure_guest();
    s.extra_arguments.clear();
    s.extra_append = "";
    outcome?;
    let outcome = test(s);
    let outcome = s.settle(outcome);
    // The next test expects the usual one.
    s.discard_guest();
    outcome
}

/// The driver under test shows what it has negotiated, if it is ours.
fn negotiated(s: &mut Session, these: u64, not_those: u64) -> Result<()> {
    match s.driver {
        Driver::Rvsock => has_features(s, these, not_those),
        Driver::C => Ok(()),
    }
}

/// Where the device stands on its bus.
fn function(s: &Session) -> Result<String> {
    let (device, _) = s.device()?;
    Ok(format!("/sys/bus/virtio/devices/{device}/.."))
}

fn has_id(s: &Session, id: &str) -> Result<()> {
    let function = function(s)?;
    let found = s.guest_sh(&format!("cat {function}/device"))?;
    ensure!(
        found.trim() == id,
        "its PCI function is {}, not {id}",
        found.trim()
    );
    Ok(())
}

fn is_translated(s: &mut Session) -> Result<()> {
    negotiated(s, VERSION_1 | ACCESS_PLATFORM, 0)?;
    let function = function(s)?;
    let kind = s
        .guest_sh(&format!("cat {function}/iommu_group/type"))
        .context("the device is behind no IOMMU")?;
    ensure!(
        kind.trim() == "DMA",
        "the IOMMU's domain is one of {kind:?}, not of translated addresses at once"
    );
    Ok(())
}

/// Stops the device. A QEMU that is killed while it waits for questions about addresses, which vhost then asks, leaves the
/// device open in the host VM, and its CID taken.
fn unbind(s: &mut Session) -> Result<()> {
    let (device, driver) = s.device()?;
    let unbind = format!("echo {device} > /sys/bus/virtio/drivers/{driver}/unbind");
    s.guest_sh(&unbind).map(drop)
}

fn works(s: &mut Session) -> Result<()> {
    for side in [Side::Guest, Side::Host] {
        let port = s.fresh_port();
        let _server = s.server(side.other(), &format!("echo-server --port {port}"))?;
        let cid = side.other().cid();
        for load in [
            "--connections 1 --bytes 4194304 --write-size 65536",
            "--connections 16 --bytes 100000 --write-size 10007",
        ] {
            let client = format!("echo-client --cid {cid} --port {port} {load}");
            s.rvtest(side, &client)?
                .success(LONG)
                .with_context(|| format!("{load} from the {side:?}"))?;
        }
        messages::pair(s, side, "sizes", "").map(drop)?;
    }
    let (device, driver) = s.device()?;
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    for word in ["unbind", "bind"] {
        s.guest_sh(&format!(
            "echo {device} > /sys/bus/virtio/drivers/{driver}/{word}"
        ))?;
    }
    let echo = format!("echo-client --cid {GUEST_CID} --port {port} --connections 4 --bytes 50000");
    s.rvtest(Side::Host, &echo)?
        .success(LONG)
        .context("after it was unbound and bound")
        .map(drop)
}
