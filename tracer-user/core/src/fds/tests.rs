use super::*;
use crate::binary::TypeId;

fn file(number: u32, poll: u64, kept: bool) -> FileObject {
    FileObject { addr: 0xc000, of: TypeId(0), number, poll, kept, holders: Vec::new() }
}

#[test]
fn of_several_objects_the_one_of_the_poller_has_it() {
    let list = [file(3, 0, true), file(3, 7, false), file(3, 8, true), file(3, 0, false)];
    let best_of = |candidates: &[u32], poll| best(candidates, &list, poll).map(|(index, _)| index);
    assert_eq!(best_of(&[0, 1, 2, 3], 7), Some(1));
    assert_eq!(best_of(&[0, 1, 2, 3], 8), Some(2));
    assert_eq!(best_of(&[1, 2], 9), None, "both are of another one");
    assert_eq!(best_of(&[3, 0], 0), Some(0), "what is kept rather than what is not");
    assert_eq!(best_of(&[], 0), None);
    assert_eq!(best_of(&[9], 0), None);
}
