//! Part of Postern.
