//! What a shared type may look like.

mod inner {
    /// Private to its module, with a public handle all the same.
    pub struct Account {
        cents: i64,
    }

    #[mp::shared(handle = AccountHandle, name = "bank.account")]
    impl Account {
        const NOTHING: i64 = 0;

        pub fn open() -> Account {
            Self { cents: Self::NOTHING }
        }

        pub fn open_with(cents: i64) -> Self {
            Self { cents }
        }

        pub fn add(&mut self, r#type: Option<String>, (whole, part): (i64, u8)) -> i64 {
            self.cents += whole * 100 + i64::from(part) + r#type.map_or(0, |text| text.len() as i64);
            self.cents
        }

        pub(crate) fn nothing(&self) {}
    }

    impl Account {
        pub fn borrowed(&self) -> &i64 {
            &self.cents
        }
    }
}

fn main() -> mp::Result<()> {
    let manager = mp::Manager::new()?;
    let account = inner::AccountHandle::open(&manager)?;
    assert_eq!(account.add(Some("ab".to_owned()), (3, 4))?, 306);
    account.nothing()?;
    assert_eq!(inner::AccountHandle::open_with(&manager, 5)?.add(None, (0, 1))?, 6);
    assert_eq!(*inner::Account::open().borrowed(), 0);
    manager.shutdown()
}
