//! The facade, the recipes and the ferrotune command.
