//! The client against a server that does what a test says: in memory and in virtual time where the order of things
//! matters, over loopback where a server dies.

mod calls;
mod lines;
mod mappings;
mod network;
mod tunnel;
mod world;
