//! A child's environment.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{Arc, Mutex};

use crate::error::{Error, ErrorKind};
use crate::sys::startup::VARIABLE;

/// A child's whole environment, as `NAME=value`: ours with these changes, and without our own variable.
pub(super) fn environment(
    changes: &[(OsString, Option<OsString>)],
) -> Result<Arc<Vec<CString>>, Error> {
    let ours = ours();
    if changes.is_empty() {
        return Ok(ours);
    }
    let mut all = Vec::clone(&ours);
    for (name, value) in changes {
        all.retain(|entry| name_of(entry) != name.as_bytes());
        if let Some(value) = value {
            let is_name = !name.is_empty() && !name.as_bytes().contains(&b'=');
            if !is_name || value.as_bytes().contains(&0) || name.as_bytes().contains(&0) {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!(
                        "{name:?} = {value:?} cannot be an environment variable: the name must be \
                     non-empty and free of `=`, and neither may hold a NUL"
                    ),
                ));
            }
            all.extend(entry(name.clone(), value));
        }
    }
    // One in front of ours would be taken for it.
    all.retain(|entry| name_of(entry) != VARIABLE.as_bytes());
    Ok(Arc::new(all))
}

/// This process's environment, but for our own variable.
fn ours() -> Arc<Vec<CString>> {
    /// What it was last: to compare is quicker than to put it together, and it changes seldom.
    static LAST: Mutex<Option<Arc<Vec<CString>>>> = Mutex::new(None);
    let variables = || std::env::vars_os().filter(|(name, _)| name != VARIABLE);
    let mut last = LAST.lock().unwrap_or_else(|poison| poison.into_inner());
    if let Some(last) = &*last
        && are(last, variables())
    {
        return last.clone();
    }
    let entries = variables().filter_map(|(name, value)| entry(name, &value));
    last.insert(Arc::new(entries.collect())).clone()
}

/// Whether the entries are those of these variables, in this order.
fn are(entries: &[CString], mut variables: impl Iterator<Item = (OsString, OsString)>) -> bool {
    let mut entries = entries.iter();
    let is_next = |(name, value): (OsString, OsString)| {
        entries.next().is_some_and(|entry| {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            let rest = entry.as_bytes().strip_prefix(name);
            rest.and_then(|rest| rest.strip_prefix(b"=")) == Some(value)
        })
    };
    variables.all(is_next) && entries.next().is_none()
}

/// `NAME=value`; nothing if there is a NUL in it.
fn entry(name: OsString, value: &OsStr) -> Option<CString> {
    let mut entry = name.into_vec();
    // And one for the NUL.
    entry.reserve_exact(value.len() + 2);
    entry.push(b'=');
    entry.extend_from_slice(value.as_bytes());
    CString::new(entry).ok()
}

fn name_of(entry: &CString) -> &[u8] {
    let entry = entry.as_bytes();
    // As std has it: a name may begin with `=`.
    let end = entry.iter().skip(1).position(|&byte| byte == b'=');
    &entry[..end.map_or(entry.len(), |end| end + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(entries: &[CString]) -> Vec<&str> {
        entries.iter().map(|text| text.to_str().unwrap()).collect()
    }

    fn pair(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    #[test]
    fn changes_are_made_in_order_and_ours_is_left_out() {
        let set = |name: &str, value: &str| (name.into(), Some(value.into()));
        let changes = [
            set("MP_TEST_A", "1"),
            set("MP_TEST_B", "x=y"),
            set("MP_TEST_A", ""),
            set(VARIABLE, "1"),
            set("MP_TEST_C", "3"),
            ("MP_TEST_C".into(), None),
        ];
        let all = environment(&changes).unwrap();
        let plain = environment(&[]).unwrap();
        assert_eq!(all.len(), plain.len() + 2);
        assert!(texts(&all).ends_with(&["MP_TEST_B=x=y", "MP_TEST_A="]));
        // As it is: nothing has changed since.
        assert!(Arc::ptr_eq(&plain, &environment(&[]).unwrap()));
        for bad in ["", "A=B", "A\0"] {
            assert!(environment(&[set(bad, "1")]).is_err());
        }
    }

    #[test]
    fn what_differs_is_seen() {
        let is = |entry: &str, name, value| {
            let entries = [CString::new(entry).unwrap()];
            are(&entries, [pair(name, value)].into_iter())
        };
        assert!(is("A=B", "A", "B") && is("=A=B", "=A", "B") && is("A=", "A", ""));
        assert!(!is("A=B", "A", "BC") && !is("A=BC", "A", "B") && !is("A=B", "AB", ""));
        let entries = [c"A=1".to_owned(), c"B=2".to_owned()];
        let both = || [pair("A", "1"), pair("B", "2")].into_iter();
        assert!(are(&entries, both()) && !are(&entries, both().take(1)));
        assert!(!are(&entries[..1], both()) && !are(&entries, both().rev()));
        assert_eq!(name_of(&c"=A=B".to_owned()), b"=A");
    }
}
