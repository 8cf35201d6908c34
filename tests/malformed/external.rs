//! External data that leaves its folder, is not there, or is not what it should be.

use crate::Case;
use crate::common::{bytes, noise};
use crate::graphs::{refusal, sum};
use onnx_protobuf::{StringStringEntryProto, tensor_proto::DataLocation};
use protobuf::EnumOrUnknown;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn external(name: &str, entries: &[(&str, &str)], prepare: fn(&Path)) -> Case {
    let mut model = sum();
    let weight = &mut model.graph.as_mut().unwrap().initializer[0];
    weight.raw_data.clear();
    weight.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
    for (key, value) in entries {
        let mut entry = StringStringEntryProto::new();
        entry.key = (*key).to_owned();
        entry.value = (*value).to_owned();
        weight.external_data.push(entry);
    }
    Case::new(format!("external, {name}"), move |folder| {
        let inner = folder.join("model");
        fs::create_dir(&inner).unwrap();
        fs::create_dir(folder.join("other")).unwrap();
        let content: Vec<u8> = noise(1, 24).into_iter().map(|v| (v * 255.0) as u8).collect();
        fs::write(folder.join("other/secret"), &content).unwrap();
        fs::write(inner.join("w.bin"), &content).unwrap();
        prepare(&inner);
        let path = inner.join("m.onnx");
        fs::write(&path, bytes(&model)).unwrap();
        refusal(&path)
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let nothing: fn(&Path) = |_| {};
    let at = |name: &str, location: &str| external(name, &[("location", location)], nothing);
    let with = |name: &str, key: &str, value: &str| external(name, &[("location", "w.bin"), (key, value)], nothing);
    vec![
        external("no location", &[("offset", "0")], nothing),
        at("an empty location", ""),
        at("the folder above", "../other/secret"),
        at("the folder above, after a step down", "a/../../other/secret"),
        at("the folder above, after a dot", "./../other/secret"),
        at("an absolute path", "/etc/hostname"),
        at("a path of another system", "C:\\secret"),
        at("a step up of another system", "..\\other\\secret"),
        at("a byte of zero", "w.bin\0/../../secret"),
        at("a line break", "w.bin\nsecret"),
        at("an escape to the terminal", "\u{1b}[2Jw.bin"),
        at("a folder", "."),
        at("a name with a slash at its end", "w.bin/"),
        at("nothing there", "gone.bin"),
        at("a path through a file", "w.bin/x"),
        at("a device", "/dev/zero"),
        at("the process itself", "/proc/self/environ"),
        at("a very long name", &"n".repeat(5000)),
        external("a link out of the folder", &[("location", "link")], |f| {
            symlink("../other/secret", f.join("link")).unwrap()
        }),
        external("a link to a folder outside", &[("location", "sub/secret")], |f| {
            symlink("../other", f.join("sub")).unwrap()
        }),
        external("a link to a link outside", &[("location", "one")], |f| {
            symlink("two", f.join("one")).unwrap();
            symlink("../other/secret", f.join("two")).unwrap();
        }),
        external("a link to itself", &[("location", "loop")], |f| symlink("loop", f.join("loop")).unwrap()),
        external("a link to nothing", &[("location", "dead")], |f| symlink("nowhere", f.join("dead")).unwrap()),
        external("a link to a device", &[("location", "null")], |f| symlink("/dev/null", f.join("null")).unwrap()),
        external("a second name of a file", &[("location", "twin")], |f| {
            fs::hard_link(f.join("../other/secret"), f.join("twin")).unwrap()
        }),
        external("a folder of that name", &[("location", "sub")], |f| fs::create_dir(f.join("sub")).unwrap()),
        external("an empty file", &[("location", "w.bin")], |f| fs::write(f.join("w.bin"), []).unwrap()),
        external("a file that is too short", &[("location", "w.bin")], |f| {
            fs::write(f.join("w.bin"), [0; 23]).unwrap()
        }),
        with("an offset beyond the file", "offset", "1"),
        with("the greatest offset", "offset", "18446744073709551615"),
        with("an offset that overflows", "offset", "18446744073709551616"),
        with("a negative offset", "offset", "-1"),
        with("an offset that is no number", "offset", "0x10"),
        with("an empty offset", "offset", ""),
        with("a length of zero", "length", "0"),
        with("a length that is too short", "length", "20"),
        with("a length that is too long", "length", "28"),
        with("the greatest length", "length", "18446744073709551615"),
        with("a negative length", "length", "-24"),
        with("an unknown key", "basepath", "/etc"),
        with("a key of the language", "__class__", "x"),
        with("two locations", "location", "other.bin"),
        external("two offsets", &[("location", "w.bin"), ("offset", "0"), ("offset", "4")], nothing),
    ]
}
