//! The readers on a whole made-up binary, and on one that was cut off or changed.

mod hostile;
mod members;
mod types;
mod variables;

use super::*;
use crate::testing::binary::{
    self as synthetic, FUNCTION, FUNCTIONS, REASONS, RECIPES, Recipe, entry, use_all,
};

#[test]
fn a_whole_binary_is_read() {
    for recipe in RECIPES {
        let binary = GoBinary::parse(synthetic::binary(recipe).into()).unwrap();
        assert_eq!((binary.version().raw.as_str(), binary.pie()), (recipe.version, recipe.pie));
        assert_eq!(binary.wait_reasons().texts(), REASONS);
        let globals = binary.globals().unwrap();
        assert_eq!(globals.allgptr, globals.allglen + 8);
        assert!(!binary.image().is_writable(globals.allglen - 0x10_0000, 8));
        assert_eq!(globals.allm, None);
        assert_eq!(binary.info().module.as_deref(), Some("example.com/m"));
        let functions: Vec<_> = binary.functions().functions().map(|function| function.name).collect();
        assert_eq!(functions, FUNCTIONS);
        assert_eq!(binary.plumbing_end(), entry(4));
        let found = binary.functions().find("runtime.main").unwrap();
        assert_eq!((found.entry, found.end), (entry(3), entry(4)));
    }
}

#[test]
fn what_the_runtime_keeps_of_the_heap_is_found() {
    for pie in [false, true] {
        let recipe = Recipe { version: "go1.26.6", pie, heap: true };
        let binary = GoBinary::parse(synthetic::binary(recipe).into()).unwrap();
        let globals = binary.globals().unwrap();
        let at = |word: u64| globals.allglen + 8 * word;
        assert_eq!(globals.pools, Some(Pools { all: at(7), old: at(10) }));
        assert_eq!(globals.finalizers, Some(FinalizerQueue { waiting: at(13), free: at(14), all: at(15) }));
        assert_eq!(globals.cleanups, Some(at(16)));
    }
    let binary = synthetic::small_binary();
    let globals = binary.globals().unwrap();
    assert_eq!((globals.pools, globals.finalizers, globals.cleanups), (None, None, None));
}

#[test]
fn pools_that_are_no_two_slices_are_not_found() {
    let data = synthetic::binary(Recipe { version: "go1.26.6", pie: false, heap: true });
    let binary = GoBinary::parse(data.clone().into()).unwrap();
    let code = binary.functions().find("sync.poolCleanup").unwrap().entry;
    let at = usize::try_from(binary.image().file_offset(code).unwrap()).unwrap();
    // Of each of the four instructions, another distance.
    for instruction in 0..4 {
        let mut data = data.clone();
        data[at + 7 * instruction + 3] ^= 8;
        let binary = GoBinary::parse(data.into()).unwrap();
        assert_eq!(binary.globals().unwrap().pools, None, "{instruction}");
    }
}

#[test]
fn inlined_functions_are_told_from_their_callers() {
    for recipe in RECIPES {
        let binary = GoBinary::parse(synthetic::binary(recipe).into()).unwrap();
        let frames = |into| {
            let frames = binary.symbolize(entry(4) + into);
            assert!(frames.iter().all(|frame| frame.file == "/src/main.go"));
            frames.iter().map(|frame| (frame.func, frame.line, frame.inlined)).collect::<Vec<_>>()
        };
        assert_eq!(frames(0), [("main.main", 10, false)]);
        assert_eq!(frames(8), [("main.outer", 20, true), ("main.main", 10, false)]);
        let nested = [("runtime.gopark", 30, true), ("main.outer", 20, true), ("main.main", 10, false)];
        assert_eq!(frames(12), nested);
        assert_eq!(frames(16), [("main.main", 11, false)]);
        assert_eq!(binary.symbolize(entry(0) - 1), []);
        assert_eq!(binary.symbolize(entry(5)), []);
        let inlined = binary.functions().inlined_callees(&["runtime.gopark", "runtime.casgstatus"]);
        assert_eq!(inlined.into_iter().collect::<Vec<_>>(), [("runtime.gopark", ["main.main"].into())]);
    }
}

#[test]
fn the_file_offset_of_an_address_is_where_its_bytes_are() {
    let data = synthetic::binary(RECIPES[1]);
    let image = Image::parse(data.clone().into()).unwrap();
    let offset = usize::try_from(image.file_offset(entry(0)).unwrap()).unwrap();
    assert_eq!(data[offset], 0x55);
    assert_eq!(image.read(entry(0), 1), Some(&[0x55][..]));
    assert_eq!(image.read(entry(5), 1), None);
    assert_eq!(image.read(entry(4), FUNCTION + 1), None);
    assert_eq!(image.file_offset(0), None);
}

#[test]
fn a_list_of_goroutines_that_is_not_found_is_said() {
    let mut data = synthetic::binary(RECIPES[1]);
    let code = data.windows(3).position(|bytes| bytes == [0x48, 0x8b, 0x1d]).unwrap();
    // lea instead of mov: allgptr would not be loaded.
    data[code + 1] = 0x8d;
    let binary = GoBinary::parse(data.into()).unwrap();
    assert!(binary.globals().unwrap_err().to_string().contains("runtime.forEachGRace"));
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut data = synthetic::binary(RECIPES[1]);
        change(&mut data);
        match GoBinary::parse(data.into()) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    };
    let version = |data: &mut Vec<u8>, with: &[u8; 8]| {
        let at = data.windows(8).position(|text| text == b"go1.26.6").unwrap();
        data[at..at + 8].copy_from_slice(with);
    };
    assert!(error(&|data| data[4] = 1).contains("32-bit"));
    assert!(error(&|data| data[5] = 2).contains("big-endian"));
    assert!(error(&|data| data[16] = 4).contains("not an executable (ELF type 4)"));
    assert!(error(&|data| data[18] = 243).contains("unsupported processor (ELF machine 243)"));
    assert!(error(&|data| data.truncate(100)).contains("truncated ELF file: the program header table"));
    assert!(error(&|data| data.truncate(700)).contains("truncated ELF file: a segment"));
    assert!(error(&|data| version(data, b"go1.18.1")).contains("go1.19 is the oldest version supported"));
    let newer = error(&|data| version(data, b"go1.26.9"));
    assert!(newer.contains("go1.26.6 does not fit: g.atomicstatus lies elsewhere in runtime.casgstatus"));
    assert!(newer.contains("--layout FILE"));
    assert!(error(&|data| version(data, b"whatever")).contains("without build information that can be read"));
    assert!(
        error(&|data| {
            let at = data.windows(4).position(|text| text == b"=exe").unwrap();
            data[at + 1..at + 4].copy_from_slice(b"xyz");
        })
        .contains("-buildmode=xyz, which is not supported yet")
    );
    assert!(
        error(&|data| {
            let at = data.windows(4).position(|word| word == 0xffff_fff1u32.to_le_bytes()).unwrap();
            data[at] = 0;
        })
        .contains("it has no pclntab")
    );
    assert!(
        error(&|data| {
            let at = data.windows(4).position(|word| word == 0xffff_fff1u32.to_le_bytes()).unwrap();
            data[at + 11] = 0xff;
        })
        .contains("its pclntab is corrupt")
    );
    assert!(
        error(&|data| {
            let at = data.windows(4).position(|text| text == b"buil").unwrap();
            data[at] = 0;
        })
        .contains("it is a Go program without build information")
    );
}

#[test]
fn a_relocation_at_the_end_of_the_address_space_is_no_module_data() {
    let mut data = synthetic::binary(RECIPES[3]);
    let magic = data.windows(4).position(|word| word == 0xffff_fff1u32.to_le_bytes()).unwrap() as u64;
    let image = Image::parse(data.clone().into()).unwrap();
    let table = image.at_file_start().unwrap() + magic;
    // `Elf64_Rela { place, type, target }`: the one with the first word of the module data.
    let target = data.windows(8).position(|word| word == table.to_le_bytes()).unwrap();
    data[target - 16..target - 8].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
    let error = GoBinary::parse(data.into()).err().unwrap().to_string();
    assert!(error.contains("no module data refers to it"), "{error}");
}

#[test]
fn cut_off_at_every_length_nothing_panics() {
    for recipe in RECIPES {
        let whole = synthetic::binary(recipe);
        for len in 0..whole.len() {
            use_all(whole[..len].to_vec());
        }
    }
}

#[test]
fn with_any_one_byte_changed_nothing_panics() {
    for recipe in RECIPES {
        let whole = synthetic::binary(recipe);
        for at in 0..whole.len() {
            for value in [0, 0xff, whole[at] ^ 0x11] {
                let mut changed = whole.clone();
                changed[at] = value;
                use_all(changed);
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn with_many_bytes_changed_nothing_panics(
        recipe in 0..RECIPES.len(),
        changes in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 1..40),
    ) {
        let mut data = synthetic::binary(RECIPES[recipe]);
        for (at, value) in changes {
            let at = at % data.len();
            data[at] = value;
        }
        use_all(data);
    }
}
