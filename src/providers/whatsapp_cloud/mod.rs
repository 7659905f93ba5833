//! WhatsApp
