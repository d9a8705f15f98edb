//! The cases that are measured and the goals of the agent. Both are defined only here.

use crate::load::{Load, Verb};

/// What the disk is stored on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Memory,
    /// A regular file that is entirely in the page cache.
    File,
    /// A larger file that is not in the page cache when a round begins.
    Cold,
    /// Like `Cold`, without the page cache: `cache=none`. nbdkit's file plugin has no O_DIRECT, and so
    /// no equivalent.
    Direct,
}

impl Media {
    pub(crate) const ALL: [Self; 4] = [Self::Memory, Self::File, Self::Cold, Self::Direct];

    /// The size of the disk, in bytes.
    pub(crate) const fn size(self) -> u64 {
        match self {
            Self::Memory | Self::File => 1 << 30,
            Self::Cold | Self::Direct => 4 << 30,
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) media: Media,
    pub(crate) load: Load,
    /// Busy connections, with one client thread each.
    pub(crate) connections: usize,
    /// Connections that have negotiated and read one block, and then send nothing.
    pub(crate) idle: usize,
    pub(crate) goals: &'static [Goal],
}

/// The figure that a goal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests per second, agent to nbdkit.
    Rate,
    /// Server CPU per request, agent to nbdkit.
    Cpu,
    /// Median latency, agent to nbdkit.
    P50,
    /// Requests per second, agent to qemu-nbd.
    RateByQemu,
    /// Server CPU per request, agent to qemu-nbd.
    CpuByQemu,
    /// Requests per second, agent to fio on the same file.
    RateByFio,
    /// The agent's memory per idle connection, in KiB.
    IdleKib,
    /// How much of its rate the agent's busy connection loses beside idle ones, in percent.
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

const RATE: &[Goal] = &[goal(Figure::Rate, Bound::AtLeast(1.0))];
const WRITES: &[Goal] =
    &[goal(Figure::Rate, Bound::AtLeast(1.5)), goal(Figure::Cpu, Bound::AtMost(0.7))];
const AS_QUICK: &[Goal] = &[goal(Figure::P50, Bound::AtMost(1.0))];
const PAST_CACHE: &[Goal] = &[
    goal(Figure::RateByQemu, Bound::AtLeast(1.5)),
    goal(Figure::CpuByQemu, Bound::AtMost(0.6)),
    goal(Figure::RateByFio, Bound::AtLeast(0.85)),
];

const SMALL: Load = Load { verb: Verb::Read, random: true, block: 4096, depth: 32, flush_every: 0 };
const SMALL_WRITE: Load = Load { verb: Verb::Write, ..SMALL };
const BIG_READ: Load = Load { random: false, block: 256 * 1024, depth: 8, ..SMALL };
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
    case(
        "cold 4k randread qd32 c1",
        Media::Cold,
        SMALL,
        1,
        &[goal(Figure::Rate, Bound::AtLeast(1.3))],
    ),
    case("cold 4k randread qd32 c4", Media::Cold, SMALL, 4, RATE),
    case("cold 4k randread qd1 c1", Media::Cold, Load { depth: 1, ..SMALL }, 1, RATE),
    case("cold 256k seqread qd8 c1", Media::Cold, BIG_READ, 1, RATE),
    case("cold 4k randwrite qd32 c1", Media::Cold, SMALL_WRITE, 1, WRITES),
    case("cold 4k randwrite qd1 c1", Media::Cold, Load { depth: 1, ..SMALL_WRITE }, 1, AS_QUICK),
    case(
        "cold 4k randwrite qd32 c1, a flush every 32",
        Media::Cold,
        Load { flush_every: 32, ..SMALL_WRITE },
        1,
        RATE,
    ),
    case("cold 256k seqwrite qd8 c1", Media::Cold, BIG_WRITE, 1, RATE),
    case("direct 4k randread qd32 c1", Media::Direct, SMALL, 1, PAST_CACHE),
    case("direct 4k randwrite qd32 c1", Media::Direct, SMALL_WRITE, 1, PAST_CACHE),
];
