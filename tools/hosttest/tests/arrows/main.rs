// SPDX-License-Identifier: GPL-2.0

//! Arrows point one way: no room of a house uses one above it, and none of those that use it.
//!
//! [`houses`] says what the rooms are and how they lie, [`source`] reads what uses what, [`rooms`] judges it.

use std::{
    fs, io,
    path::{
        Path,
        PathBuf, //
    },
};

use rooms::House;

mod houses;
mod rooms;
mod source;

fn read(file: &Path) -> io::Result<String> {
    let checkout: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect();
    fs::read_to_string(checkout.join(file))
}

fn expect_no_faults(houses: &[House]) {
    let faults: Vec<_> = houses
        .iter()
        .flat_map(|house| house.faults(&read))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_drivers_arrows_point_one_way() {
    expect_no_faults(&[houses::DRIVER]);
}

#[test]
fn the_tools_modules_use_each_other_one_way() {
    expect_no_faults(houses::TOOLS);
}

/// The modules of a crate that the head of its first file leaves out.
fn not_on_the_map(house: &House, read: source::Read<'_>) -> Vec<String> {
    let root = Path::new(house.root);
    let text = read(root).unwrap();
    let map: Vec<_> = text.lines().filter(|l| l.starts_with("//!")).collect();
    let map = map.join("\n");
    let all = source::Crate::read(root, read).unwrap();
    let rooms = all.written().filter(|(module, ..)| module.len() == 1);
    rooms
        .map(|(module, ..)| module.join("::"))
        .filter(|name| {
            !map.contains(&format!("[`{name}`]")) && !map.contains(&format!("[`mod@{name}`]"))
        })
        .collect()
}

#[test]
fn every_module_of_the_tools_is_on_its_crates_map() {
    for house in houses::TOOLS {
        let missing = not_on_the_map(house, &read);
        assert!(
            missing.is_empty(),
            "{} says nothing of {missing:?}",
            house.root
        );
    }
}

/// A house of three floors, for the tests of the tests.
const SMALL: House = House {
    root: "main.rs",
    open: &["floor"],
    deep: false,
    layers: &[
        &["main"],
        &["floor"],
        &["floor/top"],
        &["floor/middle", "floor/side"],
        &["cellar"],
    ],
    apart: &[("floor/side", "cellar")],
};

/// The faults of [`SMALL`] with these files in the place of, or beside, sound ones.
fn faults_with(files: &[(&str, &str)]) -> Vec<String> {
    let sound = [
        ("main.rs", "mod cellar; mod floor; fn main() { floor::go() }"),
        (
            "floor/mod.rs",
            "mod middle; mod side; mod top; pub(crate) use self::top::{Top, go};",
        ),
        (
            "floor/top.rs",
            "use super::{middle::Middle, side}; pub struct Top(Middle); pub fn go() { side::side() }",
        ),
        (
            "floor/middle.rs",
            "pub(in crate::floor) struct Middle; fn f() -> u8 { crate::cellar::COAL }",
        ),
        ("floor/side.rs", "use std::fmt; pub fn side() {}"),
        ("cellar.rs", "pub const COAL: u8 = 1;"),
    ];
    let all: Vec<_> = files.iter().chain(&sound).copied().collect();
    faults_of(&SMALL, &all)
}

/// The faults of a house that is made of these files; of several with a name the first counts.
fn faults_of(house: &House, files: &[(&str, &str)]) -> Vec<String> {
    house.faults(&|path: &Path| {
        files
            .iter()
            .find(|(name, _)| Path::new(name) == path)
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

/// `text` in the place of the file is one fault, which contains `what`.
fn expect_fault(file: &str, text: &str, what: &str) {
    let faults = faults_with(&[(file, text)]);
    assert!(
        faults.len() == 1 && faults[0].contains(what),
        "{text}\nshould give: {what}\nand gives: {faults:#?}"
    );
}

#[test]
fn a_sound_house_has_no_faults() {
    assert_eq!(faults_with(&[]), Vec::<String>::new());
}

#[test]
fn an_upward_use_is_found_however_it_is_written() {
    let upwards = "upwards, from cellar to floor/top";
    for text in [
        "use crate::floor::top::Top;",
        "use crate::{\n    floor::{\n        top::{Top, go}, //\n    },\n};",
        "use crate::floor::top::*;",
        "use crate::floor::top as ceiling;",
        "use super::floor::top::{self};",
        "fn f() { let _ = crate::floor::top::go(); }",
        "fn f(_: &super::floor::top::Top) {}",
        "mod inner { mod deep { fn f() { super::super::super::floor::top::go() } } }",
        "fn f() { use crate::floor::top; top::go() }",
        "fn f() { println!(\"{:?}\", crate::floor::top::go()) }",
        "macro_rules! m { () => { $crate::floor::top::go() } }",
        "macro_rules! m { () => { use $crate::floor::{top::Top as T}; } }",
        "#[arg(value_parser = crate::floor::top::go)] struct S;",
        "fn f<T: Into<Vec<crate::floor::top::Top>>>() {}",
    ] {
        let text = format!("pub const COAL: u8 = 1; {text}");
        // The cellar is used from the middle, which top uses: each such use closes a circle, too.
        let faults = faults_with(&[("cellar.rs", &text)]);
        assert!(
            faults.len() == 2 && faults[0].contains(upwards) && faults[1].contains("a circle"),
            "{text}\nshould give: {upwards}\nand gives: {faults:#?}"
        );
    }
}

#[test]
fn what_a_room_passes_on_is_of_where_it_is_defined() {
    let first_with = |floor: &str, side: &str| {
        let floor = format!("mod middle; mod side; mod top; {floor}");
        let side = format!("{side} pub fn side() {{}}");
        let files = [
            ("floor/mod.rs", floor.as_str()),
            ("floor/side.rs", side.as_str()),
        ];
        faults_with(&files)
            .into_iter()
            .find(|fault| fault.contains("upwards, from floor/side"))
            .unwrap_or_default()
    };
    for (floor, side) in [
        ("pub use self::top::{Top, go};", "use super::go;"),
        ("pub use top::{go as walk, Top};", "use super::walk;"),
        ("pub use self::top::*;", "use crate::floor::go;"),
        (
            "pub use self::top::{self as roof, go};",
            "use super::roof::Top;",
        ),
        (
            "mod names { pub use super::top::{self}; } pub use top::go;",
            "use super::names::top::Top;",
        ),
    ] {
        let fault = first_with(floor, side);
        assert!(
            fault.contains("upwards, from floor/side to floor/top"),
            "{floor} {side} gives: {fault}"
        );
    }
    // And what it defines is its own.
    for floor in [
        "pub use self::top::Top; pub fn go() {}",
        "pub use self::top::*; pub fn go() {}",
    ] {
        let fault = first_with(floor, "use super::go;");
        assert!(
            fault.ends_with("upwards, from floor/side to floor"),
            "{floor} gives: {fault}"
        );
    }
}

#[test]
fn a_module_names_its_own_modules_as_they_are() {
    let faults = faults_with(&[
        (
            "floor/mod.rs",
            "mod middle; mod side; mod top; pub use top::go; pub fn f() { side::side() }",
        ),
        ("floor/side.rs", "pub fn side() { super::f() }"),
    ]);
    assert!(
        faults
            .iter()
            .any(|f| f.contains("a circle: floor -> floor/side -> floor")),
        "{faults:#?}"
    );
}

#[test]
fn a_circle_in_one_layer_is_found() {
    let side = (
        "floor/side.rs",
        "use super::middle::Middle; pub fn side() {}",
    );
    assert_eq!(faults_with(&[side]), Vec::<String>::new());
    let middle = (
        "floor/middle.rs",
        "pub(in crate::floor) struct Middle; fn f() { super::side::side() }",
    );
    let faults = faults_with(&[side, middle]);
    assert!(
        faults.len() == 1
            && faults[0].contains("a circle: floor/middle -> floor/side -> floor/middle")
            && faults[0].contains("floor/middle.rs:1: super::side::side"),
        "{faults:#?}"
    );
}

#[test]
fn a_circle_deep_in_a_house_is_found() {
    let deep = House {
        open: &[],
        deep: true,
        layers: &[],
        apart: &[],
        ..SMALL
    };
    let faults = |fire: &str| {
        let files = [
            ("main.rs", "mod cellar; fn main() { cellar::light() }"),
            (
                "cellar/mod.rs",
                "mod coalfire; mod coal; pub fn light() { coalfire::fire() }",
            ),
            (
                "cellar/coal.rs",
                "pub struct Coal; fn f() { super::coalfire::fire() }",
            ),
            ("cellar/coalfire.rs", fire),
        ];
        faults_of(&deep, &files)
    };
    // The cellar's own file and the fire's use each other: that is no circle.
    let sound = faults("pub fn fire() { super::light() }");
    assert_eq!(sound, Vec::<String>::new());
    let circle = faults("pub fn fire() { let _: super::coal::Coal; }");
    assert!(
        circle.len() == 1
            && circle[0].contains("a circle: cellar/coal -> cellar/coalfire -> cellar/coal"),
        "{circle:#?}"
    );
}

#[test]
fn rooms_that_are_to_be_apart_are_kept_apart() {
    expect_fault(
        "floor/side.rs",
        "use crate::cellar; pub fn side() {}",
        "floor/side is to use nothing of cellar",
    );
}

#[test]
fn every_room_has_a_layer_and_every_layer_its_rooms() {
    expect_fault(
        "main.rs",
        "mod attic { } mod cellar; mod floor; fn main() { floor::go() }",
        "the room attic stands in no layer",
    );
    expect_fault(
        "floor/mod.rs",
        "mod middle; mod side { pub fn side() {} } mod top; pub(crate) use self::top::{Top, go}; mod cupboard;",
        "floor/cupboard.rs: entity not found",
    );
    let faults = faults_with(&[
        ("floor/mod.rs", "mod middle; mod top; pub use top::go;"),
        (
            "floor/top.rs",
            "pub struct Top(super::middle::Middle); pub fn go() {}",
        ),
    ]);
    assert_eq!(
        faults,
        ["main.rs: there is no room floor/side, which stands among the layers"]
    );
}

#[test]
fn comments_and_visibility_use_nothing() {
    let quiet = "//! [`go`](crate::floor::top::go)\n/* crate::floor::top */ pub const COAL: u8 = 1;
        pub(in crate::floor) struct S; macro_rules! m { () => { pub(in crate::floor) struct T; } }";
    assert_eq!(faults_with(&[("cellar.rs", quiet)]), Vec::<String>::new());
}
