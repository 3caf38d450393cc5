struct Stack<T>(Vec<T>);

#[mp::shared]
impl<T> Stack<T> {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn push(&mut self, value: T) {
        self.0.push(value);
    }
}

fn main() {
    Stack::<u8>::new().push(1);
}
