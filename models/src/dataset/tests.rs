use std::fs;

use super::*;

/// A folder with these files; pictures need no content here.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn scan(folder: &Folder) -> Result<Vec<(String, String, usize)>, String> {
    let mut problems = Problems::default();
    let items = folder.scan(&mut problems).map_err(|e| e.to_string())?;
    problems.check(items.len() + 1).map_err(|e| e.to_string())?;
    let name = |item: &Item| item.path.file_name().unwrap().to_string_lossy().into_owned();
    Ok(items.iter().map(|item| (name(item), item.caption.clone(), item.repeats)).collect())
}

fn owned(list: &[(&str, &str, usize)]) -> Vec<(String, String, usize)> {
    list.iter().map(|(a, b, n)| ((*a).to_owned(), (*b).to_owned(), *n)).collect()
}

#[test]
fn captions_beside_pictures() {
    let own = folder(&[
        ("b.PNG", ""),
        ("b.txt", " a dog \n"),
        ("a.jpg", ""),
        ("a.txt", "a cat"),
        ("notes.md", ""),
        (".hidden.png", ""),
    ]);
    assert_eq!(scan(&Folder::new(own.path())), Ok(owned(&[("a.jpg", "a cat", 1), ("b.PNG", "a dog", 1)])));
    let with = Folder { prefix: "photo, ".into(), suffix: ", 4k".into(), ..Folder::new(own.path()) };
    assert_eq!(scan(&with).unwrap()[0].1, "photo, a cat, 4k");
    fs::remove_file(own.path().join("a.txt")).unwrap();
    let error = scan(&Folder::new(own.path())).unwrap_err();
    assert!(error.contains("1 of 2 pictures have no caption") && error.contains("a.jpg"), "{error}");
    let with = Folder { prompt: Some("sks dog".into()), ..Folder::new(own.path()) };
    assert_eq!(scan(&with).unwrap()[0].1, "sks dog");
    fs::write(own.path().join("a.txt"), [0xff, 0xfe]).unwrap();
    assert!(scan(&with).unwrap_err().contains("captions that cannot be read"));
}

#[test]
fn metadata_in_lines() {
    let lines =
        "{\"file_name\": \"a.png\", \"text\": \"a cat\"}\n\n{\"file_name\": \"sub/b.png\", \"text\": \"a dog\"}\n";
    let own = folder(&[("a.png", ""), ("sub/b.png", ""), ("sub/b.txt", "not this"), ("metadata.jsonl", lines)]);
    assert_eq!(scan(&Folder::new(own.path())), Ok(owned(&[("a.png", "a cat", 1), ("b.png", "a dog", 1)])));
    let other = Folder { caption_column: "caption".into(), ..Folder::new(own.path()) };
    let error = scan(&other).unwrap_err();
    assert!(error.contains("line 1") && error.contains("`caption`") && error.contains("file_name, text"), "{error}");
    let more = lines.to_owned()
        + "{\"file_name\": \"gone.png\", \"text\": \"x\"}\n{\"file_name\": \"a.png\", \"text\": \"y\"}\n";
    fs::write(own.path().join("metadata.jsonl"), more).unwrap();
    fs::write(own.path().join("c.png"), "").unwrap();
    let error = scan(&Folder::new(own.path())).unwrap_err();
    for what in ["gone.png", "named twice", "have no caption", "c.png"] {
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn metadata_in_a_table() {
    let own = folder(&[("a.png", ""), ("metadata.csv", "file_name,text\na.png,\"a \"\"red\"\" cat,\nsitting\"\n")]);
    assert_eq!(scan(&Folder::new(own.path())), Ok(owned(&[("a.png", "a \"red\" cat,\nsitting", 1)])));
    fs::write(own.path().join("metadata.csv"), "file_name,caption\na.png,x\n").unwrap();
    assert!(scan(&Folder::new(own.path())).unwrap_err().contains("no column `text`"));
    fs::write(own.path().join("metadata.csv"), "file_name,text\na.png\n").unwrap();
    assert!(scan(&Folder::new(own.path())).unwrap_err().contains("metadata.csv"));
    fs::write(own.path().join("metadata.jsonl"), "").unwrap();
    assert!(scan(&Folder::new(own.path())).unwrap_err().contains("keep one"));
}

#[test]
fn folders_of_kohya() {
    let own = folder(&[
        ("10_sks dog/a.png", ""),
        ("10_sks dog/b.png", ""),
        ("10_sks dog/b.txt", "a dog"),
        ("2_cat/c.png", ""),
    ]);
    let wanted = owned(&[("a.png", "sks dog", 10), ("b.png", "a dog", 10), ("c.png", "cat", 2)]);
    assert_eq!(scan(&Folder::new(own.path())), Ok(wanted));
}

#[test]
fn empty_folders_are_errors() {
    let own = folder(&[("a.txt", "")]);
    assert!(scan(&Folder::new(own.path())).unwrap_err().contains("no pictures"));
    assert!(scan(&Folder::new(own.path().join("gone"))).unwrap_err().contains("not a folder"));
}

#[test]
fn a_configuration_of_kohya() {
    let own = folder(&[(
        "data.toml",
        "[general]\ncaption_extension = \".caption\"\nenable_bucket = true\n[[datasets]]\nresolution = [512, 768]\nbatch_size = 2\n\
         [[datasets.subsets]]\nimage_dir = \"dogs\"\nnum_repeats = 10\ncaption_prefix = \"photo,\"\n\
         [[datasets.subsets]]\nimage_dir = \"reg\"\nis_reg = true\nclass_tokens = \"dog\"\nflip_aug = true\n",
    )]);
    let path = own.path().join("data.toml");
    let found = read_toml(&path).unwrap();
    assert_eq!((found.folders.len(), found.batch_size), (2, Some(2)));
    let [dogs, reg] = &found.folders[..] else { panic!("two folders") };
    assert_eq!((dogs.repeats, dogs.prefix.as_str(), dogs.caption_extension.as_str()), (10, "photo, ", ".caption"));
    assert_eq!((reg.prior, reg.flip, reg.prompt.as_deref()), (true, true, Some("dog")));
    assert!(found.buckets.unwrap().sizes().contains(&[768, 512]));
    for (text, what) in [
        ("[general]\nresolutoin = 512\n", "resolutoin"),
        ("[[datasets]]\nbatch_sise = 1\n", "batch_sise"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1\n", "image_dir"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = \"a\"\nshuffle_caption = true\n", "shuffle_caption"),
        ("", "subsets"),
    ] {
        fs::write(&path, text).unwrap();
        let error = read_toml(&path).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("data.toml"), "{error}");
    }
}
