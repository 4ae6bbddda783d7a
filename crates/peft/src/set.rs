use ferrotune_model::Decoder;

use crate::PeftError;
use crate::adapter::Adapter;

/// Several adapters of one base by name, of which one at a time is on the model. Switching hangs other handles
/// on the layers: nothing is read, copied or computed.
#[derive(Debug, Default)]
pub struct AdapterSet {
    adapters: Vec<(String, Adapter)>,
    active: Option<usize>,
}

impl AdapterSet {
    /// No adapters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an adapter that is on no model (made by [`Adapter::new`], or detached); it takes the place of one
    /// with the same name, which must not be the active one.
    ///
    /// # Errors
    /// [`PeftError::Config`] where the active adapter would be replaced.
    pub fn add(&mut self, name: impl Into<String>, adapter: Adapter) -> Result<(), PeftError> {
        let name = name.into();
        match self.position(&name) {
            Some(i) if self.active == Some(i) => {
                Err(PeftError::Config(format!("adapter {name:?} is active: switch to another one first")))
            }
            Some(i) => {
                self.adapters[i].1 = adapter;
                Ok(())
            }
            None => {
                self.adapters.push((name, adapter));
                Ok(())
            }
        }
    }

    /// Puts the adapter `name` on the model in place of the active one; `None` leaves the base.
    ///
    /// # Errors
    /// [`PeftError::Config`] for an unknown name (the known ones are listed), and as [`Adapter::attach`]: the
    /// model then carries none of them.
    pub fn activate(&mut self, decoder: &mut Decoder, name: Option<&str>) -> Result<(), PeftError> {
        let next = match name {
            None => None,
            Some(name) => Some(self.position(name).ok_or_else(|| {
                let known = self.names().join(", ");
                PeftError::Config(format!("no adapter {name:?}; there are: {known}"))
            })?),
        };
        if let Some(active) = self.active.take() {
            self.adapters[active].1.detach(decoder);
        }
        if let Some(next) = next {
            self.adapters[next].1.attach(decoder)?;
        }
        self.active = next;
        Ok(())
    }

    /// The active adapter's name.
    pub fn active(&self) -> Option<&str> {
        self.active.map(|i| self.adapters[i].0.as_str())
    }

    /// An adapter by name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Adapter> {
        self.position(name).map(|i| &mut self.adapters[i].1)
    }

    /// The names, in the order they were added.
    pub fn names(&self) -> Vec<&str> {
        self.adapters.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.adapters.iter().position(|(n, _)| n == name)
    }
}
