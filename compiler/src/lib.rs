//! Part of sara.
