//! What is measured, and what the agent has to reach. The one place for both.

use crate::load::{Load, Verb};

/// What the disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Memory,
    /// A regular file whose pages are all in the page cache.
    File,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) media: Media,
    pub(crate) load: Load,
    /// Busy connections, a client thread each.
    pub(crate) connections: usize,
    /// Connections that have negotiated, read one block, and then say nothing.
    pub(crate) idle: usize,
    pub(crate) goals: &'static [Goal],
}

/// What a goal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests a second, agent to nbdkit.
    Rate,
    /// Server CPU per request, agent to nbdkit.
    Cpu,
    /// Median latency, agent to nbdkit.
    P50,
    /// Memory per idle connection of the agent, KiB.
    IdleKib,
    /// How much of its rate the agent's busy connection loses beside idle ones, percent.
    IdleLoss,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Under(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Under(bound) => value < bound,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
}

const fn goal(figure: Figure, bound: Bound) -> Goal {
    Goal { figure, bound }
}

const TWICE_AT_HALF: &[Goal] =
    &[goal(Figure::Rate, Bound::AtLeast(2.0)), goal(Figure::Cpu, Bound::AtMost(0.5))];
const BULK: &[Goal] = &[goal(Figure::Rate, Bound::AtLeast(1.3))];

const SMALL: Load = Load { verb: Verb::Read, random: true, block: 4096, depth: 32 };
const BIG_READ: Load = Load { verb: Verb::Read, random: false, block: 256 * 1024, depth: 8 };
const BIG_WRITE: Load = Load { verb: Verb::Write, ..BIG_READ };

const fn case(
    name: &'static str,
    media: Media,
    load: Load,
    connections: usize,
    goals: &'static [Goal],
) -> Case {
    Case { name, media, load, connections, idle: 0, goals }
}

pub(crate) const CASES: &[Case] = &[
    case("memory 4k randread qd32 c1", Media::Memory, SMALL, 1, TWICE_AT_HALF),
    case("memory 4k randread qd32 c4", Media::Memory, SMALL, 4, TWICE_AT_HALF),
    case("memory 256k seqread qd8 c1", Media::Memory, BIG_READ, 1, BULK),
    case("memory 256k seqwrite qd8 c1", Media::Memory, BIG_WRITE, 1, BULK),
    case(
        "memory 4k randread qd1 c1",
        Media::Memory,
        Load { depth: 1, ..SMALL },
        1,
        &[goal(Figure::P50, Bound::AtMost(1.0))],
    ),
    Case {
        name: "1000 idle connections beside memory 4k randread",
        media: Media::Memory,
        load: SMALL,
        connections: 1,
        idle: 1000,
        goals: &[
            goal(Figure::IdleKib, Bound::Under(32.0)),
            goal(Figure::IdleLoss, Bound::Under(5.0)),
        ],
    },
    case(
        "file 4k randread qd32 c1",
        Media::File,
        SMALL,
        1,
        &[goal(Figure::Rate, Bound::AtLeast(2.0))],
    ),
];
