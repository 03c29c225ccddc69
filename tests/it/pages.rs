//! Ranges read page by page.

use std::collections::BTreeSet;

use esker::ErrorKind;
use esker::Page;
use esker::PageLimit;
use esker::PageToken;

use crate::support::TestDb;
use crate::support::key;
use crate::support::value;

fn keys(page: &Page) -> Vec<Vec<u8>> {
    page.entries.iter().map(|(key, _)| key.to_vec()).collect()
}

#[test]
fn pages_cover_a_range_once_in_both_directions() {
    let db = TestDb::new();
    for i in 0..100 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.flush().unwrap();
    for (items, backward) in [(1, false), (7, true), (30, false), (60, true), (61, false)] {
        let limit = PageLimit::items(items);
        let range = db.range(key(20)..=key(79));
        let mut page = if backward { range.page_back(limit) } else { range.page(limit) }.unwrap();
        let mut all = keys(&page);
        while let Some(token) = page.next {
            assert_eq!(page.entries.len(), items);
            page = db.next_page(&token, limit).unwrap();
            assert!(!page.entries.is_empty(), "a token promises more");
            all.extend(keys(&page));
        }
        if backward {
            all.reverse();
        }
        assert!(all.into_iter().eq((20..80).map(key)), "{items} a page");
    }
    assert_eq!(db.range(key(100)..).page(PageLimit::items(5)).unwrap().next, None);
}

#[test]
fn a_page_never_exceeds_its_limits() {
    let db = TestDb::new();
    for i in 0..20 {
        db.put(key(i), vec![7; 10 * i]).unwrap();
    }
    let size = |page: &Page| page.entries.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    let limit = PageLimit::items(6).bytes(300);
    let mut page = db.iter().page(limit).unwrap();
    let mut entries = 0;
    loop {
        assert!(page.entries.len() <= 6 && size(&page) <= 300);
        entries += page.entries.len();
        let Some(token) = page.next else { break };
        page = db.next_page(&token, limit).unwrap();
    }
    assert_eq!(entries, 20);
    let error = db.iter().page_back(limit.bytes(100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(db.iter().page(PageLimit::items(0)).is_err());
}

#[test]
fn what_stays_is_read_once_whatever_is_written_between_pages() {
    for backward in [false, true] {
        let db = TestDb::new();
        for i in (0..100).step_by(2) {
            db.put(key(i), "stays").unwrap();
        }
        let limit = PageLimit::items(3);
        let mut page =
            if backward { db.iter().page_back(limit) } else { db.iter().page(limit) }.unwrap();
        let mut seen = BTreeSet::new();
        for round in 0.. {
            for (key, value) in &page.entries {
                if value == "stays" {
                    assert!(seen.insert(key.to_vec()), "{key:?} twice");
                }
            }
            let Some(token) = page.next else { break };
            // Keys come and go, the last one of the page among them.
            for i in 0..10 {
                let i = (round * 17 + i * 11) % 100 / 2 * 2 + 1;
                if round % 2 == 0 {
                    db.put(key(i), "comes").unwrap();
                } else {
                    db.delete(key(i)).unwrap();
                }
            }
            db.put(key(2), "stays").unwrap();
            db.flush().unwrap();
            db.run_one_job().unwrap();
            page = db.next_page(&token, limit).unwrap();
        }
        assert_eq!(seen.len(), 50);
    }
}

#[test]
fn a_token_outlives_the_database_and_serves_no_other() {
    let mut db = TestDb::new();
    for i in 0..10 {
        db.put(key(i), "").unwrap();
    }
    let mut range = db.range(key(1)..key(9));
    assert_eq!(range.next().unwrap().unwrap().0, key(1));
    assert_eq!(range.next_back().unwrap().unwrap().0, key(8));
    let page = range.page(PageLimit::items(3)).unwrap();
    assert_eq!(keys(&page), [key(2), key(3), key(4)]);
    let token: PageToken = page.next.unwrap().to_string().parse().unwrap();
    db.reopen();
    let page = db.next_page(&token, PageLimit::items(9)).unwrap();
    assert_eq!(keys(&page), [key(5), key(6), key(7)]);
    let other = TestDb::new();
    let error = other.next_page(&token, PageLimit::items(9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    // Nor any other keyspace, not even one of the same name.
    let users = db.keyspace("users").unwrap();
    let error = users.next_page(&token, PageLimit::items(9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("another keyspace"), "{error}");
    users.put("a", "").unwrap();
    users.put("b", "").unwrap();
    let token = users.iter().page(PageLimit::items(1)).unwrap().next.unwrap();
    assert_eq!(users.next_page(&token, PageLimit::items(1)).unwrap().entries[0].0, "b");
    db.drop_keyspace("users").unwrap();
    let users = db.keyspace("users").unwrap();
    let error = users.next_page(&token, PageLimit::items(1)).unwrap_err();
    assert!(error.to_string().contains("another keyspace"), "{error}");
    for bad in ["", "0", "zz", "0102"] {
        let used = bad.parse().and_then(|token| db.next_page(&token, PageLimit::items(1)));
        assert_eq!(used.unwrap_err().kind(), ErrorKind::Misuse, "{bad}");
    }
}
