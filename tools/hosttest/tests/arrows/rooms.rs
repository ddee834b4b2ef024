// SPDX-License-Identifier: GPL-2.0

//! Rooms, the arrows between them, and what is wrong with those.

use std::{
    collections::{
        BTreeMap,
        BTreeSet,
        VecDeque, //
    },
    path::Path,
};

use crate::source::{
    Crate,
    Read, //
};

/// A crate, and which way its arrows may point.
pub(crate) struct House {
    /// The crate's first file, from the checkout's folder on; the room that it is has the name of the file.
    pub(crate) root: &'static str,
    /// Each module of the root is a room with all that is in it. These are not: what is in them are rooms, `module/room`.
    pub(crate) open: &'static [&'static str],
    /// Every module is a room, however deep it lies. What lies in a module, and the module's own file, may use each
    /// other then.
    pub(crate) deep: bool,
    /// From the top; no room uses one of a layer above its own. All rooms stand here, or none does.
    pub(crate) layers: &'static [&'static [&'static str]],
    /// The first uses nothing of the second, though that lies below it.
    pub(crate) apart: &'static [(&'static str, &'static str)],
}

/// From which room to which, and the first place that says so.
type Arrows = BTreeMap<(String, String), String>;

impl House {
    /// What is wrong, a line each.
    pub(crate) fn faults(&self, read: Read<'_>) -> Vec<String> {
        let (rooms, arrows) = match self.arrows(read) {
            Ok(found) => found,
            Err(e) => return vec![e],
        };
        let mut faults = Vec::new();
        if !self.layers.is_empty() {
            self.check_layers(&rooms, &arrows, &mut faults);
        }
        for ((from, to), place) in &arrows {
            if self.apart.contains(&(from, to)) {
                faults.push(format!("{place}: {from} is to use nothing of {to}"));
            }
        }
        for circle in circles(&rooms, &arrows) {
            let places: Vec<_> = circle
                .iter()
                .zip(circle.iter().cycle().skip(1))
                .filter_map(|(from, to)| arrows.get(&(from.clone(), to.clone())))
                .map(|place| format!("\n    {place}"))
                .collect();
            let names = circle.join(" -> ");
            let first = &circle[0];
            faults.push(format!("a circle: {names} -> {first}{}", places.concat()));
        }
        faults
    }

    fn room(&self, module: &[String]) -> String {
        if module.is_empty() {
            let stem = Path::new(self.root).file_stem().unwrap_or_default();
            return stem.to_string_lossy().into_owned();
        }
        if self.deep {
            return module.join("/");
        }
        let mut names = 1;
        while names < module.len() && self.open.contains(&module[..names].join("/").as_str()) {
            names += 1;
        }
        module[..names].join("/")
    }

    fn arrows(&self, read: Read<'_>) -> Result<(BTreeSet<String>, Arrows), String> {
        let all = Crate::read(Path::new(self.root), read)?;
        let mut rooms = BTreeSet::new();
        let mut arrows = Arrows::new();
        for (module, file, written) in all.written() {
            let from = self.room(module);
            rooms.insert(from.clone());
            for path in written {
                let Some(target) = all.resolve(module, &path.names) else {
                    continue;
                };
                let to = self.room(&target);
                if to != from && !(self.deep && (is_within(&from, &to) || is_within(&to, &from))) {
                    arrows.entry((from.clone(), to)).or_insert_with(|| {
                        format!(
                            "{}:{}: {}",
                            file.display(),
                            path.line,
                            path.names.join("::")
                        )
                    });
                }
            }
        }
        Ok((rooms, arrows))
    }

    fn check_layers(&self, rooms: &BTreeSet<String>, arrows: &Arrows, faults: &mut Vec<String>) {
        let layer = |room: &str| self.layers.iter().position(|layer| layer.contains(&room));
        for room in rooms.iter().filter(|room| layer(room).is_none()) {
            faults.push(format!("{}: the room {room} stands in no layer", self.root));
        }
        for room in self.layers.concat() {
            if !rooms.contains(room) {
                faults.push(format!(
                    "{}: there is no room {room}, which stands among the layers",
                    self.root
                ));
            }
        }
        for ((from, to), place) in arrows {
            if let (Some(above), Some(below)) = (layer(from), layer(to)) {
                if below < above {
                    faults.push(format!("{place}: upwards, from {from} to {to}"));
                }
            }
        }
    }
}

fn is_within(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// For each room that lies in circles the shortest of them, and each circle once.
fn circles(rooms: &BTreeSet<String>, arrows: &Arrows) -> Vec<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for room in rooms {
        let Some(circle) = way_back(room, arrows) else {
            continue;
        };
        if seen.insert(circle.iter().cloned().collect::<BTreeSet<_>>()) {
            found.push(circle);
        }
    }
    found
}

/// The rooms of the shortest way from `room` back to it.
fn way_back(room: &String, arrows: &Arrows) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&String, &String> = BTreeMap::new();
    let mut next = VecDeque::from([room]);
    while let Some(at) = next.pop_front() {
        for (_, to) in arrows.keys().filter(|(from, _)| from == at) {
            if to == room {
                let mut way = vec![at.clone()];
                let mut at = at;
                while at != room {
                    at = came_from.get(at)?;
                    way.push(at.clone());
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(to) {
                came_from.insert(to, at);
                next.push_back(to);
            }
        }
    }
    None
}
