//! A file behaves as an array of bytes under any requests.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write(u8, bool),
    Pages(u8),
    Trim,
    Zero(bool, bool),
    Read,
    Extents,
}

/// The size of the file: more than a window, and not a multiple of a block.
const SIZE: usize = (5 << 18) + 1234;

fn steps() -> impl Strategy<Value = (usize, usize, Step)> {
    let at = prop_oneof![0..SIZE, (0..SIZE).prop_map(|at| at / 4096 * 4096)];
    let len = prop_oneof![1_usize..600, 1_usize..20_000, Just(4096), Just(65536), Just(SIZE)];
    let step = prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(byte, fua)| Step::Write(byte, fua)),
        2 => any::<u8>().prop_map(Step::Pages),
        1 => Just(Step::Trim),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(trim, fast)| Step::Zero(trim, fast)),
        4 => Just(Step::Read),
        1 => Just(Step::Extents),
    ];
    (at, len, step).prop_map(|(at, len, step)| (at, len.min(SIZE - at), step))
}

fn behaves_as_an_array(options: Options, steps: Vec<(usize, usize, Step)>) {
    let (_directory, path) = sparse(SIZE as u64);
    let disk = FileDisk::open(&path, options).unwrap();
    let mut model = vec![0_u8; SIZE];
    for (start, length, step) in steps {
        let (at, len, range) = (start as u64, length as u64, start..start + length);
        match step {
            Step::Write(byte, fua) => {
                model[range.clone()].fill(byte);
                try_write(&disk, at, &model[range], fua).unwrap();
            }
            Step::Pages(byte) => {
                model[range.clone()].fill(byte);
                let mut pages = Pages::room(at, length);
                pages.copy_in(&model[range]).unwrap();
                let data = Data::Pages(&mut pages);
                run(&disk, &mut Op::Write { at, data, fua: false }).unwrap();
            }
            // On a file, a trimmed range is a hole.
            Step::Trim => {
                model[range].fill(0);
                trim(&disk, at, len);
            }
            Step::Zero(may_trim, fast) => {
                let mut op = Op::Zero { at, len, fua: false, may_trim, fast };
                match run(&disk, &mut op) {
                    Ok(_) => model[range].fill(0),
                    Err(error) => assert!(fast && error.kind == Kind::Unsupported),
                }
            }
            Step::Read => {
                let pieces = read(&disk, at, u32::try_from(len).unwrap());
                assert!(bytes_of(&pieces) == model[range]);
            }
            Step::Extents => {
                let mut here = start;
                for extent in extents(&disk, at, len, false) {
                    let end = here + usize::try_from(extent.len).unwrap();
                    assert!(!extent.zero || model[here..end].iter().all(|&byte| byte == 0));
                    here = end;
                }
            }
        }
    }
    run(&disk, &mut Op::Flush).unwrap();
    let mut bytes = vec![0; SIZE];
    File::open(&path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == model);
    assert_eq!(fs::metadata(&path).unwrap().len(), SIZE as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_file_behaves_as_an_array_of_bytes(steps in prop::collection::vec(steps(), 1..20)) {
        behaves_as_an_array(Options::default(), steps);
    }

    #[test]
    fn a_file_past_the_page_cache_does_too(steps in prop::collection::vec(steps(), 1..20)) {
        behaves_as_an_array(DIRECT, steps);
    }
}
